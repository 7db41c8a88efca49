// The report without a browser: numbers, axes, plots, tables, files.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "src/report/page.hpp"
#include "src/report/section.hpp"
#include "src/report/text.hpp"
#include "tests/report/fixture.hpp"

namespace kvcodec::report_test {
namespace {

using report::Axis;
using report::Drawing;
using report::Mark;
using report::Section;
using Strings = std::vector<std::string>;

Strings texts(const Axis& axis) {
  Strings all;
  for (const Axis::Tick& tick : axis.ticks()) all.push_back(tick.text);
  return all;
}

// All first groups of a pattern in a text.
Strings matches(const std::string& text, const std::string& pattern) {
  const std::regex expression(pattern);
  Strings all;
  for (std::sregex_iterator i(text.begin(), text.end(), expression), end; i != end; ++i) {
    all.push_back((*i)[1]);
  }
  return all;
}

const Drawing& drawing(const Section& section, const std::string& id) {
  for (const report::Group& group : section.groups) {
    for (const Drawing& d : group.drawings) {
      if (d.id == id) return d;
    }
  }
  throw std::runtime_error("no drawing " + id);
}

// Reports of one plan with this member.
Json report_with(const char* name, const Json& value) {
  Json report = {{"plans", {{{"name", "a"}}}}};
  report["plans"][0][name] = value;
  return report;
}

TEST(Words, AreEscapedAndShortened) {
  EXPECT_EQ(report::escape("<a b=\"c\" d='e'>&\n\x01"),
            "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;  ");
  EXPECT_EQ(report::escape("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(report::shortened("abcdef", 6), "abcdef");
  EXPECT_EQ(report::shortened("abcdefg", 6), "abcde\xe2\x80\xa6");
  EXPECT_EQ(report::shortened("\xc3\xa9\xc3\xa9\xc3\xa9", 2), "\xc3\xa9\xe2\x80\xa6");
}

TEST(Numbers, AreWrittenForReaders) {
  EXPECT_EQ(report::fixed(1234567.891, 2), "1,234,567.89");
  EXPECT_EQ(report::fixed(-1234, 0), "-1,234");
  EXPECT_EQ(report::fixed(999.5, 0), "1,000");
  EXPECT_EQ(report::fixed(-0.001, 2), "0.00");
  EXPECT_EQ(report::short_number(0), "0");
  EXPECT_EQ(report::short_number(0.012345), "0.0123");
  EXPECT_EQ(report::short_number(4.1e-5), "4.1e-05");
  EXPECT_EQ(report::short_number(131072), "131,072");
  EXPECT_EQ(report::short_number(2e20), "2.00e+20");
}

TEST(AxisTest, TicksAreRoundAndEncloseTheValues) {
  EXPECT_EQ(texts(Axis::linear("", 0, 100)), (Strings{"0", "20", "40", "60", "80", "100"}));
  EXPECT_EQ(texts(Axis::linear("", 2.04, 2.0512)), (Strings{"2.040", "2.045", "2.050", "2.055"}));
  EXPECT_EQ(texts(Axis::linear("", -3, 9)), (Strings{"-5", "0", "5", "10"}));
  EXPECT_EQ(texts(Axis::logarithmic("", 2.25, 16, 2)),
            (Strings{"2", "3", "4", "6", "8", "12", "16"}));
  EXPECT_EQ(texts(Axis::logarithmic("", 700, 65536, 2)),
            (Strings{"512", "1k", "2k", "4k", "8k", "16k", "32k", "64k"}));
  EXPECT_EQ(texts(Axis::logarithmic("", 0.03, 4, 10, true)),
            (Strings{"0", "0.01", "0.1", "1", "10"}));
  EXPECT_EQ(texts(Axis::fields("", {"a", "b"})), (Strings{"a", "b"}));
  const Strings many = {"14", "13", "12", "11", "10", "9", "8", "7",
                        "6",  "5",  "4",  "3",  "2",  "1", "0"};
  EXPECT_EQ(texts(Axis::fields("", many, true)),
            (Strings{"14", "12", "10", "8", "6", "4", "2", "0"}));
  EXPECT_EQ(texts(Axis::fields("", {many.begin() + 1, many.end()})).front(), "13");
  for (const auto& [lo, hi] : std::vector<std::pair<double, double>>{
           {5, 5}, {0, 0}, {-2, -2}, {1e17, 1e17 + 16}, {1e-12, 3e-12}, {-1e9, 1e9}}) {
    const Axis axis = Axis::linear("", lo, hi);
    EXPECT_GE(axis.ticks().size(), 2u) << lo;
    EXPECT_LE(axis.ticks().size(), 12u) << lo;
    EXPECT_LE(axis.place(lo), axis.place(hi)) << lo;
  }
  EXPECT_LE(Axis::logarithmic("", 1e-300, 1e300, 10).ticks().size(), 8u);
}

TEST(AxisTest, PlacesAreLinearInTheValueOrItsLogarithm) {
  const Axis linear = Axis::linear("", 0, 100);
  EXPECT_DOUBLE_EQ(linear.place(25), 0.25);
  EXPECT_DOUBLE_EQ(linear.place(-1), 0);
  EXPECT_DOUBLE_EQ(linear.place(101), 1);
  const Axis log = Axis::logarithmic("", 1, 256, 2);
  EXPECT_DOUBLE_EQ(log.place(16), 0.5);
  const Axis zero = Axis::logarithmic("", 1, 100, 10, true);
  EXPECT_EQ(zero.place(0), 0);
  EXPECT_GT(zero.place(1), 0.05);
  EXPECT_DOUBLE_EQ(zero.place(10), (zero.place(1) + 1) / 2);
  EXPECT_DOUBLE_EQ(Axis::fields("", {"a", "b"}).place(1), 0.75);
}

TEST(AxisTest, IsLogarithmicWhereValuesSpread) {
  EXPECT_EQ(texts(report::axis_for("", {1, 7}, 10, true)).front(), "0");
  EXPECT_EQ(texts(report::axis_for("", {1, 50}, 10)), (Strings{"1", "10", "100"}));
  EXPECT_EQ(texts(report::axis_for("", {0, 0.01, 1}, 10)), (Strings{"0", "0.01", "0.1", "1"}));
  EXPECT_EQ(texts(report::axis_for("", {-1, 0.001, 3}, 10)).front(), "-1");
  EXPECT_EQ(texts(report::axis_for("", {0, 0}, 10)).front(), "0.0");
}

TEST(Front, HoldsWhatNothingBeats) {
  const auto front = [](const std::vector<Mark>& points) { return report::pareto_front(points); };
  using Indices = std::vector<std::size_t>;
  EXPECT_EQ(front({}), Indices{});
  EXPECT_EQ(front({{4, 1, ""}}), Indices{0});
  EXPECT_EQ(front({{16, 0, ""}, {4, 2, ""}, {4, 1, ""}, {3, 5, ""}, {8, 1, ""}, {3, 9, ""}}),
            (Indices{3, 2, 0}));
  EXPECT_EQ(front({{4, 1, ""}, {4, 1, ""}, {5, 1, ""}}), (Indices{0, 1})) << "equals stay";
}

TEST(Shares, HaveTheRangeOfWilson) {
  const auto expect_range = [](double right, double asked, double low, double high) {
    const auto [a, b] = report::share_range(right, asked);
    EXPECT_NEAR(a, low, 5e-5) << right << " of " << asked;
    EXPECT_NEAR(b, high, 5e-5) << right << " of " << asked;
  };
  expect_range(9, 10, 0.5958, 0.9821);
  expect_range(0, 10, 0.0, 0.2775);
  expect_range(10, 10, 0.7225, 1.0);
}

TEST(HeatMap, ColoursRiseInLightness) {
  double before = -1;
  for (int i = 0; i <= 20; ++i) {
    const std::string c = report::heat_colour(i / 20.0);
    ASSERT_EQ(c.size(), 7u);
    const auto part = [&](std::size_t at) { return std::stoi(c.substr(at, 2), nullptr, 16); };
    const double light = 0.21 * part(1) + 0.72 * part(3) + 0.07 * part(5);
    EXPECT_GT(light, before + 4) << i;
    before = light;
  }
  EXPECT_EQ(report::heat_colour(-1), report::heat_colour(0));
  EXPECT_EQ(report::heat_colour(2), report::heat_colour(1));
}

TEST(PlotTest, MarksStandWhereTheirValuesAre) {
  report::Plot plot("x", "X", Axis::linear("a", 0, 10), Axis::linear("b", 0, 1),
                    {.width = 320, .height = 220, .left = 50, .right = 30, .inset = 10});
  plot.bars(0, {{0, 0, "zero"}, {5, 0.5, "half"}, {10, 1, "one"}}, 1);
  const Drawing d = plot.finish("");
  EXPECT_EQ(d.n_marks, 3);
  const std::string bar = "class=\"mark bar\" x=\"([^\"]*)\"";
  // From 50 + 10 to 320 - 30 - 10; half a unit to the left, but not beyond the axis.
  EXPECT_EQ(matches(d.body, bar), (Strings{"60.0", "159.0", "269.0"}));
  const std::string height = "class=\"mark bar\"[^>]* height=\"([^\"]*)\"";
  EXPECT_EQ(matches(d.body, height), (Strings{"0.0", "100.0", "200.0"}));
}

TEST(PlotTest, SeriesDifferInColourOrShape) {
  std::set<std::string> seen;
  for (int style = 0; style < 42; ++style) {
    report::Plot plot("x", "", Axis::linear("", 0, 1), Axis::linear("", 0, 1));
    plot.marks(style, {{0.5, 0.5, ""}});
    const std::string body = plot.finish("").body;
    seen.insert(matches(body, "<g class=\"(s\\d)\"").at(0) +
                matches(body, "class=\"mark shape\" d=\"([^\"]*)\"").at(0));
  }
  EXPECT_EQ(seen.size(), 42u);
}

TEST(Sections, FrameTheWorstCellAndShareColours) {
  Json report = {{"plans", {{{"name", "a"}}, {{"name", "b"}}}}};
  report["plans"][0]["attention"]["heads"] = {{0.001, 0.002}, {0.004, nullptr}, {0.003, 0.001}};
  report["plans"][1]["attention"]["heads"] = {{0.5, 0.002}};
  const Section section = report::attention_section(report::plans_of(report));
  const Drawing& a = drawing(section, "errors-01");
  const Drawing& b = drawing(section, "errors-02");
  EXPECT_EQ(a.n_marks, 5);
  const std::string tip = ">([^<]*)</title>";
  EXPECT_EQ(matches(a.body, tip).at(2), "layer 1, head 0: error 0.004");
  const auto at = [](const std::string& body, const std::string& before) {
    return Strings{matches(body, before + "[^>]* x=\"([^\"]*)\"").at(0),
                   matches(body, before + "[^>]* y=\"([^\"]*)\"").at(0)};
  };
  const Strings cell = {matches(a.body, "x=\"([^\"]*)\"[^>]*><title>layer 1, head 0").at(0),
                        matches(a.body, "y=\"([^\"]*)\"[^>]*><title>layer 1, head 0").at(0)};
  const Strings frame = at(a.body, "class=\"outline\"");
  EXPECT_NEAR(std::stod(frame[0]), std::stod(cell[0]) - 1, 0.11);
  EXPECT_NEAR(std::stod(frame[1]), std::stod(cell[1]) - 1, 0.11);
  const auto colour = [](const std::string& body, const std::string& cell_tip) {
    return matches(body, "fill=\"(#[0-9a-f]*)\"[^>]*><title>" + cell_tip).at(0);
  };
  EXPECT_EQ(colour(a.body, "layer 0, head 1"), colour(b.body, "layer 0, head 1")) << "both 0.002";
  EXPECT_NE(colour(a.body, "layer 1, head 0"), colour(b.body, "layer 0, head 0"));
}

TEST(Sections, SumRetrievalPerField) {
  const Json report = report_with(
      "retrieval",
      {{{"task", "needle"}, {"length", 4096}, {"depth", 0}, {"right", 3}, {"asked", 4}},
       {{"task", "needle"}, {"length", 4096}, {"depth", 0}, {"right", 1}, {"asked", 4}},
       {{"task", "needle"}, {"length", 8192}, {"depth", nullptr}, {"right", 2}, {"asked", 2}},
       {{"task", "needle"}, {"length", 8192}, {"depth", 1}, {"right", 0}, {"asked", 0}}});
  const auto plans = report::plans_of(report);
  const Drawing d = drawing(report::retrieval_section(plans), "retrieval-needle-01");
  EXPECT_EQ(d.n_marks, 2);
  EXPECT_EQ(
      matches(d.body, ">([^<]*right)</title>"),
      (Strings{"4,096 tokens, depth 0 %: 4 of 8 right", "8,192 tokens, depth any: 2 of 2 right"}));
  EXPECT_DOUBLE_EQ(report::retrieval_share(*plans[0].data).value(), 0.6);
}

TEST(Sections, FitTheNormalCurveToTheBars) {
  const double deviation = 1.5;
  Json counts = Json::array();
  for (int i = 0; i < 60; ++i) {
    const double z = (-6 + 12 * (i + 0.5) / 60) / deviation;
    counts.push_back(std::round(1e6 * std::exp(-z * z / 2)));
  }
  Json report = {{"plans", Json::array()}};
  report["distributions"] = {{{"layer", 3},
                              {"side", "v"},
                              {"lo", -6},
                              {"hi", 6},
                              {"counts", counts},
                              {"mean", 0},
                              {"stddev", deviation}}};
  const Section section = report::distribution_section(report);
  const Drawing& d = drawing(section, "values-03");
  EXPECT_EQ(d.n_marks, 60);
  // The curve passes the tops of the bars: its highest point lies on the highest bar.
  const Strings tops = matches(d.body, "class=\"mark bar\"[^>]* y=\"([^\"]*)\"");
  double highest_bar = 1e9;
  for (const std::string& top : tops) highest_bar = std::min(highest_bar, std::stod(top));
  double highest_curve = 1e9;
  const std::string path = matches(d.body, "class=\"line neutral\" d=\"([^\"]*)\"").at(0);
  for (const std::string& y : matches(path, "[ML][0-9.]* ([0-9.]*)")) {
    highest_curve = std::min(highest_curve, std::stod(y));
  }
  EXPECT_NEAR(highest_curve, highest_bar, 1.0);
  EXPECT_EQ(d.caption, "Normal at 5 %: not measured of groups, not measured pooled.");
}

TEST(Sections, TakeLatenciesFromTheLongestContext) {
  Json report = report_with("decode", {{{"context", 4096}, {"p50_ms", 9}, {"p99_ms", 12}},
                                       {{"context", 256}, {"p50_ms", 2}, {"p99_ms", 3}}});
  report["plans"][0]["ppl"] = 2.5;
  report["plans"].push_back({{"plan", "kv=f16"}});
  const report::Table table = report::plan_section(report::plans_of(report)).tables.at(0);
  Strings headings;
  for (const report::Column& column : table.columns) headings.push_back(column.heading);
  EXPECT_EQ(headings, (Strings{"Plan", "Perplexity", "Decode p50", "Decode p99"}));
  ASSERT_EQ(table.rows.size(), 2u);
  EXPECT_EQ(table.rows[0].cells[2].value, 9);
  EXPECT_EQ(table.rows[0].cells[3].text, "12");
  EXPECT_EQ(table.rows[1].cells[0].text, "kv=f16");
  EXPECT_EQ(table.rows[1].cells[1].text, "") << "not measured";
}

TEST(WriteReport, SaysWhatWasNotMeasured) {
  const TempFolder folder("report-bare");
  report::write_report({{"plans", Json::array()}}, folder.path());
  const std::string page = read_file(folder.path() / "report.html");
  EXPECT_EQ(count(page, "<section"), 7);
  EXPECT_EQ(count(page, "Not measured: "), 7);
  EXPECT_EQ(count(page, "<svg"), 0);
  EXPECT_TRUE(fs::is_empty(folder.path() / "plots"));
}

TEST(WriteReport, TakesWrongTypesForMissing) {
  const TempFolder folder("report-odd");
  const double inf = std::numeric_limits<double>::infinity();
  Json report = {{"model", 7}, {"isa", Json::array()}, {"distributions", "none"}};
  report["plans"] = {
      nullptr,
      3,
      "x",
      Json::object(),
      {{"name", "odd"},
       {"ppl", "high"},
       {"bits_per_value", inf},
       {"kl", 1},
       {"retrieval", {1, nullptr}},
       {"attention", {{"heads", {1, {"a"}, nullptr}}}},
       {"decode", {{{"context", 1}}}},
       {"recall_by_distance", {{{"from", 1}, {"to", 2}, {"right", 0}, {"asked", 0}}}}},
      {{"name", "not UTF-8: \xff\x01"}, {"ppl", inf}, {"bits_per_value", 4}}};
  report::write_report(report, folder.path());
  const std::string page = read_file(folder.path() / "report.html");
  EXPECT_EQ(count(page, "not UTF-8: \xef\xbf\xbd "), 2) << "cell and its key";
  EXPECT_EQ(count(page, "inf"), 0);
  EXPECT_EQ(count(page, "<svg"), 0);
}

TEST(WriteReport, WritesEveryPlotTwice) {
  const TempFolder folder("report-full");
  report::write_report(full_report(), folder.path());
  const std::string page = read_file(folder.path() / "report.html");
  const Strings ids = matches(page, "data-plot=\"([^\"]*)\"");
  EXPECT_EQ(ids.size(), std::set<std::string>(ids.begin(), ids.end()).size());
  for (const std::string& id : ids) {
    const std::string svg = read_file(folder.path() / "plots" / (id + ".svg"));
    EXPECT_EQ(count(page, "href=\"plots/" + id + ".svg\""), 1) << id;
    EXPECT_EQ(svg.substr(0, 5), "<svg ") << id;
    EXPECT_EQ(count(svg, "prefers-color-scheme: dark"), 1) << id;
    EXPECT_EQ(count(svg, "<script"), 0) << id;
  }
  EXPECT_EQ(count(page, "<script>"), 1) << "the page's own";
  EXPECT_EQ(matches(page, "(https?://[^\" ]*)"), Strings(ids.size(), "http://www.w3.org/2000/svg"));
  report::write_report(full_report(), folder.path());
  EXPECT_EQ(read_file(folder.path() / "report.html"), page) << "the same again";
}

TEST(WriteReport, RemovesItsOwnOldPlotsOnly) {
  const TempFolder folder("report-again");
  report::write_report(full_report(), folder.path());
  std::ofstream(folder.path() / "plots" / "mine.svg") << "<svg/>";
  std::ofstream(folder.path() / "plots" / "notes.txt") << "kept";
  report::write_report(report_with("ttft_ms", {{{"tokens", 8}, {"ms", 2}}}), folder.path());
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder.path() / "plots")) {
    left.insert(entry.path().filename().string());
  }
  EXPECT_EQ(left, (std::set<std::string>{"mine.svg", "notes.txt", "ttft.svg"}));
}

TEST(WriteReport, EqualNamesGetFilesOfTheirOwn) {
  const TempFolder folder("report-equal");
  const Json entry = {{"length", 8}, {"depth", 0}, {"right", 1}, {"asked", 1}};
  Json first = entry;
  Json second = entry;
  first["task"] = "a b";
  second["task"] = "a/b";
  report::write_report(report_with("retrieval", {first, second}), folder.path());
  EXPECT_TRUE(fs::exists(folder.path() / "plots" / "retrieval-a-b-01.svg"));
  EXPECT_TRUE(fs::exists(folder.path() / "plots" / "retrieval-a-b-01-2x.svg"));
}

TEST(WriteReport, RefusesWhatItCannotDo) {
  const TempFolder folder("report-refused");
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message([&] { report::write_report(Json::array(), folder.path() / "x"); }),
            "report: report = \"array\", allowed: an object with an array \"plans\"");
  EXPECT_FALSE(fs::exists(folder.path() / "x"));
  std::ofstream(folder.path() / "file") << "in the way";
  const std::string in_the_way = (folder.path() / "file").string();
  const std::string expected =
      "report: folder = \"" + in_the_way + "\", allowed: a folder that can be made and written to";
  EXPECT_EQ(message([&] { report::check_folder(in_the_way); }), expected);
  EXPECT_EQ(message([&] { report::write_report(full_report(), in_the_way); }), expected);
}

}  // namespace
}  // namespace kvcodec::report_test
