// The report in a real browser: it loads, shows all data, sorts, and can be read in the dark, in the
// light and on a phone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/report/fixture.hpp"

#if KVCODEC_HAS_HTTPLIB
#include "tests/report/webdriver.hpp"
#endif

namespace kvcodec::report_test {
namespace {

#if KVCODEC_HAS_HTTPLIB
std::string what_is_missing() {
  return program_on_path("chromedriver").empty() ? "no chromedriver on PATH" : "";
}
#else
std::string what_is_missing() { return "built without libcpp-httplib-dev"; }
#endif

TEST(BrowserIsHere, WhereItIsNeeded) {
  const char* needed = std::getenv("KVCODEC_NEED_BROWSER");
  if (what_is_missing().empty()) return;
  if (needed && std::string(needed) == "1") FAIL() << what_is_missing();
  GTEST_SKIP() << what_is_missing();
}

#if KVCODEC_HAS_HTTPLIB

using Value = nlohmann::json;

// Runs before any script of a page: collects what goes wrong in it.
constexpr const char* kCollect = R"js(
window.mistakes = [];
addEventListener('error', (e) => mistakes.push('error: ' + e.message));
document.addEventListener('securitypolicyviolation', (e) => mistakes.push('csp: ' + e.blockedURI));
)js";

// Texts of less than 4.5:1 and marks of less than 3:1 to what lies behind them.
constexpr const char* kFaint = R"js(
const parse = (text) => {
  const n = text.match(/[\d.]+/g).map(Number);
  return text.startsWith('rgb') ? { rgb: n.slice(0, 3), alpha: n.length > 3 ? n[3] : 1 } : null;
};
const light = ({ rgb }) => {
  const [r, g, b] = rgb.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  const svg = element.closest('svg');
  if (svg) return parse(getComputedStyle(svg.querySelector('.ground')).fill);
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.alpha === 1) return colour;
  }
  return { rgb: [255, 255, 255] };
};
const faint = [];
const check = (element, colour, behind, least) => {
  const found = contrast(colour, behind);
  if (!(found >= least)) faint.push(found.toFixed(2) + ' ' + element.outerHTML.slice(0, 120));
};
let n = 0;
const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest('script,style,title,head')) continue;
  const style = getComputedStyle(element);
  const in_cell = element.matches('.on-dark,.on-light');
  const behind = in_cell ? parse(getComputedStyle(element.previousElementSibling).fill)
                         : ground(element);
  check(element, parse(element.closest('svg') ? style.fill : style.color), behind, 4.5);
  ++n;
}
for (const shape of document.querySelectorAll('.shape,.line,.outline')) {
  check(shape, parse(getComputedStyle(shape).stroke), ground(shape), 3);
}
const body = document.body ? getComputedStyle(document.body).backgroundColor
                           : getComputedStyle(document.querySelector('.ground')).fill;
return { n, faint: [...new Set(faint)], ground: body };
)js";

// Texts of a plot that overlap each other or leave it.
constexpr const char* kCrowded = R"js(
const crowded = [];
for (const svg of document.querySelectorAll('svg.kvcodec-plot')) {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map((e) => [e, e.getBoundingClientRect()]);
  texts.forEach(([e, a], i) => {
    if (a.left < frame.left || a.right > frame.right + 0.5 || a.top < frame.top ||
        a.bottom > frame.bottom) {
      crowded.push(svg.dataset.plot + ' cuts: ' + e.textContent);
    }
    for (const [other, b] of texts.slice(i + 1)) {
      if (a.left + 1 < b.right && b.left + 1 < a.right && a.top + 2 < b.bottom &&
          b.top + 2 < a.bottom) {
        crowded.push(svg.dataset.plot + ': ' + e.textContent + ' / ' + other.textContent);
      }
    }
  });
}
return crowded;
)js";

// Per plot: marks, those of them with a tooltip, and those outside the frame of the plot.
constexpr const char* kMarks = R"js(
const plots = {};
for (const svg of document.querySelectorAll('svg.kvcodec-plot')) {
  const frame = svg.querySelector('.frame').getBoundingClientRect();
  const marks = [...svg.querySelectorAll('.mark')];
  const outside = marks.map((mark) => mark.getBoundingClientRect()).filter((m) =>
    m.left < frame.left - 3 || m.right > frame.right + 3 || m.top < frame.top - 3 ||
    m.bottom > frame.bottom + 3 || !(m.width > 0));
  plots[svg.dataset.plot] = [
    marks.length, marks.filter((m) => m.querySelector('title')?.textContent).length,
    outside.length];
}
return plots;
)js";

// Column `arguments[1]` of a table as its cells are written, and its state.
constexpr const char* kColumn = R"js(
const table = document.getElementById(arguments[0]);
const cells = [...table.tBodies[0].rows].map((row) => row.cells[arguments[1]]);
const heading = table.tHead.rows[0].cells[arguments[1]];
return { sorted: heading.ariaSort, words: heading.classList.contains('words'),
         texts: cells.map((c) => c.dataset.text ?? null),
         values: cells.map((c) => (c.dataset.value === undefined ? null : Number(c.dataset.value))) };
)js";

class ReportInBrowser : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!what_is_missing().empty()) return;
    folder_ = new TempFolder("browser");
    Json report = full_report();
    report["plans"][2]["ppl"] = nullptr;  // cells that were not measured
    for (const int i : {0, 3, 5}) report["plans"][i]["answer_bits_per_byte"] = nullptr;
    for (const int i : {4, 7}) report["plans"][i]["top1_agreement"] = nullptr;
    report::write_report(report, folder_->path());
    browser_ = new Browser(folder_->path());
    browser_->devtools("Page.addScriptToEvaluateOnNewDocument", {{"source", kCollect}});
  }
  static void TearDownTestSuite() {
    delete browser_;
    delete folder_;
  }
  void SetUp() override {
    if (!what_is_missing().empty()) GTEST_SKIP() << what_is_missing();
    scheme("light");
    browser_->devtools("Emulation.clearDeviceMetricsOverride", Value::object());
    browser_->open(page());
  }

  static fs::path page() { return folder_->path() / "report.html"; }
  static void scheme(const std::string& name) {
    const Value feature = {{"name", "prefers-color-scheme"}, {"value", name}};
    browser_->devtools("Emulation.setEmulatedMedia", {{"features", Value::array({feature})}});
  }
  static void expect_no_mistakes(const std::string& where) {
    EXPECT_EQ(browser_->run("return mistakes"), Value::array()) << where;
    EXPECT_EQ(browser_->console(), Value::array()) << where;
    EXPECT_EQ(browser_->run("return performance.getEntriesByType('resource').map((e) => e.name)"),
              Value::array())
        << where;
  }
  static Value column(const std::string& table, int index) {
    return browser_->run(kColumn, {table, index});
  }
  static void expect_sorted(const Value& column, bool downwards, const std::string& where);

  static TempFolder* folder_;
  static Browser* browser_;
};

TempFolder* ReportInBrowser::folder_ = nullptr;
Browser* ReportInBrowser::browser_ = nullptr;

// What was not measured stands last, either way.
void ReportInBrowser::expect_sorted(const Value& column, bool downwards, const std::string& where) {
  EXPECT_EQ(column["sorted"], downwards ? "descending" : "ascending") << where;
  if (column["words"].get<bool>()) return;  // by the rules of a language; see the plan's column
  bool missing = false;
  const Value& values = column["values"];
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_FALSE(missing && !values[i].is_null()) << where << ": " << values;
    missing = values[i].is_null();
    if (i == 0 || missing) continue;
    const double before = values[i - 1].get<double>();
    const double now = values[i].get<double>();
    EXPECT_TRUE(downwards ? now <= before : before <= now) << where << ": " << values;
  }
}

TEST_F(ReportInBrowser, LoadsWithoutMistakesAndAlone) {
  expect_no_mistakes("report.html");
  EXPECT_EQ(browser_->run("return document.readyState"), "complete");
  EXPECT_EQ(browser_->run("return window.broken === undefined"), true) << "a plan's name ran";
  EXPECT_EQ(browser_->run("return document.querySelectorAll('[src],[onclick],[onload]').length"),
            0);
  EXPECT_EQ(browser_->run("return document.querySelector('#plan-table tbody')"
                          ".rows[6].cells[0].dataset.text"),
            fixture_plans()[6].name);
}

TEST_F(ReportInBrowser, PlotsHoldTheData) {
  const Value plots = browser_->run(kMarks);
  const int n = static_cast<int>(fixture_plans().size());
  const std::vector<std::pair<std::string, int>> expected = {{"kl-bytes", n},
                                                             {"ppl-bytes", n - 1},
                                                             {"recall-bytes", n},
                                                             {"retrieval-bytes", n},
                                                             {"recall-distance", 6 * n},
                                                             {"recall-depth", 6 * n},
                                                             {"decode-latency", 12 * n},
                                                             {"ttft", 6 * n},
                                                             {"normality", 4 * kLayers},
                                                             {"errors-01", kLayers * kHeads},
                                                             {"errors-09", kLayers * kHeads},
                                                             {"retrieval-needle-01", 25},
                                                             {"retrieval-multi-needle-05", 25},
                                                             {"retrieval-key-value-09", 25},
                                                             {"keys-00", kBins},
                                                             {"values-05", kBins}};
  EXPECT_EQ(plots.size(), 9u + static_cast<std::size_t>(n + 3 * n + 2 * kLayers));
  for (const auto& [id, marks] : expected) {
    ASSERT_TRUE(plots.contains(id)) << id;
    EXPECT_EQ(plots[id][0], marks) << id;
  }
  for (const auto& [id, counts] : plots.items()) {
    EXPECT_GT(counts[0], 0) << id;
    EXPECT_EQ(counts[1], counts[0]) << id << ": marks with a tooltip";
    EXPECT_EQ(counts[2], 0) << id << ": marks outside the frame";
  }
}

TEST_F(ReportInBrowser, TextsOfPlotsKeepApart) {
  EXPECT_EQ(browser_->run(kCrowded), Value::array());
}

TEST_F(ReportInBrowser, TablesSortByClick) {
  const Value tables = browser_->run(
      "for (const d of document.querySelectorAll('details')) d.open = true;"
      "return [...document.querySelectorAll('table')].map((t) => [t.id, "
      "t.tHead.rows[0].cells.length])");
  ASSERT_EQ(tables.size(), 4u);
  for (const Value& table : tables) {
    const std::string id = table[0];
    for (int i = 0; i < table[1].get<int>(); ++i) {
      const std::string where = id + ", column " + std::to_string(i);
      const std::string click = "document.getElementById('" + id + "').tHead.rows[0].cells[" +
                                std::to_string(i) + "].firstElementChild.click()";
      EXPECT_EQ(column(id, i)["sorted"], "none") << where;
      browser_->run(click);
      expect_sorted(column(id, i), false, where);
      browser_->run(click);
      expect_sorted(column(id, i), true, where);
    }
  }
  expect_no_mistakes("after sorting");
}

TEST_F(ReportInBrowser, PlansSortByPointerAndKeyboard) {
  browser_->click("#plan-table thead th:nth-child(2) button");
  EXPECT_EQ(column("plan-table", 1)["values"],
            Value({2.25, 3.03, 3.25, 4.25, 4.25, 5.5, 6, 8.25, 16}));
  EXPECT_EQ(column("plan-table", 0)["texts"][0], fixture_plans()[6].name) << "rows stay whole";
  browser_->run("document.querySelector('#plan-table thead th:nth-child(2) button').focus()");
  browser_->press("\xee\x80\x87");  // Enter
  EXPECT_EQ(column("plan-table", 1)["values"],
            Value({16, 8.25, 6, 5.5, 4.25, 4.25, 3.25, 3.03, 2.25}));
  browser_->press(" ");
  EXPECT_EQ(column("plan-table", 1)["sorted"], "ascending");
  browser_->click("#plan-table thead th:nth-child(1) button");
  const Value names = column("plan-table", 0)["texts"];
  const auto place = [&](const char* name) {
    return std::find(names.begin(), names.end(), name) - names.begin();
  };
  EXPECT_LT(place("kv=f16"), place("kv=hadamard+nqkv:g64"));
  EXPECT_LT(place("kv=hadamard+nqkv:g64"), place("kv=int8"));
  EXPECT_LT(place("kv=int8"), place("kv=nqkv:g64"));
  EXPECT_EQ(column("plan-table", 1)["sorted"], "none");
}

TEST_F(ReportInBrowser, CanBeReadInTheDarkAndInTheLight) {
  browser_->run("for (const d of document.querySelectorAll('details')) d.open = true");
  std::string grounds[2];
  for (const int dark : {0, 1}) {
    scheme(dark ? "dark" : "light");
    const Value found = browser_->run(kFaint);
    EXPECT_EQ(found["faint"], Value::array()) << (dark ? "dark" : "light");
    EXPECT_GT(found["n"], 1000);
    grounds[dark] = found["ground"];
  }
  EXPECT_EQ(grounds[0], "rgb(255, 255, 255)");
  EXPECT_EQ(grounds[1], "rgb(20, 23, 28)");
}

TEST_F(ReportInBrowser, FitsAPhone) {
  browser_->devtools("Emulation.setDeviceMetricsOverride",
                     {{"width", 400}, {"height", 800}, {"deviceScaleFactor", 2}, {"mobile", true}});
  browser_->open(page());
  const Value size = browser_->run(
      "for (const d of document.querySelectorAll('details')) d.open = true;"
      "return [innerWidth, document.documentElement.scrollWidth]");
  EXPECT_EQ(size[0], 400);
  EXPECT_EQ(size[1], 400) << "scrolls sideways";
  const Value smallest = browser_->run(
      "return Math.min(...[...document.querySelectorAll('svg.kvcodec-plot')].map((s) =>"
      "12 * s.getBoundingClientRect().width / s.viewBox.baseVal.width))");
  EXPECT_GE(smallest, 9.5) << "px, the letters of a plot";
  EXPECT_EQ(browser_->run(kCrowded), Value::array());
}

// All files are XML with all marks; one of each kind is opened by itself.
TEST_F(ReportInBrowser, FilesOfPlotsStandAlone) {
  const Value in_page = browser_->run(kMarks);
  std::size_t n = 0;
  for (const auto& entry : fs::directory_iterator(folder_->path() / "plots")) {
    const std::string name = entry.path().stem().string();
    ASSERT_TRUE(in_page.contains(name)) << name;
    const Value marks = browser_->run(
        "const d = new DOMParser().parseFromString(arguments[0], 'image/svg+xml');"
        "return d.querySelector('parsererror')?.textContent ?? d.querySelectorAll('.mark').length",
        {read_file(entry.path())});
    EXPECT_EQ(marks, in_page[name][0]) << name;
    ++n;
  }
  EXPECT_EQ(n, in_page.size());
  for (const char* name :
       {"kl-bytes", "decode-latency", "errors-01", "retrieval-needle-01", "keys-00"}) {
    browser_->open(folder_->path() / "plots" / (std::string(name) + ".svg"));
    expect_no_mistakes(name);
    EXPECT_EQ(browser_->run(kMarks), Value({{name, in_page[name]}}));
    for (const char* theme : {"light", "dark"}) {
      scheme(theme);
      const Value found = browser_->run(kFaint);
      EXPECT_EQ(found["faint"], Value::array()) << name << ", " << theme;
      EXPECT_EQ(found["ground"],
                std::string(theme) == "dark" ? "rgb(20, 23, 28)" : "rgb(255, 255, 255)");
    }
  }
}

#endif  // KVCODEC_HAS_HTTPLIB

}  // namespace
}  // namespace kvcodec::report_test
