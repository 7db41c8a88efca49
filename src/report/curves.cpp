// Sections whose plots are points and lines: quality against bytes, recall, latency.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "src/report/section.hpp"
#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

using Value = std::function<std::optional<double>(const Json& plan)>;

Value field(const char* name, double scale = 1.0) {
  return [name, scale](const Json& plan) {
    std::optional<double> value = number(plan, name);
    if (value) *value *= scale;
    return value;
  };
}

std::optional<double> mean_kl(const Json& plan) { return number(member(plan, "kl"), "mean"); }

std::optional<double> bits(const Json& plan) {
  const std::optional<double> payload = number(plan, "bits_per_value");
  return payload ? payload : number(plan, "bits_per_value_all");
}

std::optional<double> retrieval_percent(const Json& plan) {
  std::optional<double> share = retrieval_share(plan);
  if (share) *share *= 100.0;
  return share;
}

void append_part(std::string& tip, const char* before, std::optional<double> value,
                 const char* after) {
  if (value) tip += std::string(", ") + before + short_number(*value) + after;
}

// What the tooltip of a plan's point says, whatever the plot.
std::string summary(const Plan& plan) {
  std::string tip;
  append_part(tip, "", bits(*plan.data), " bits per value");
  append_part(tip, "", field("kv_bytes", 1.0 / 1024)(*plan.data), " KiB");
  append_part(tip, "KL ", mean_kl(*plan.data), " nats per token");
  append_part(tip, "perplexity ", number(*plan.data, "ppl"), "");
  append_part(tip, "recall ", field("recall", 100.0)(*plan.data), " %");
  append_part(tip, "retrieval ", retrieval_percent(*plan.data), " %");
  return plan.name + (tip.empty() ? "" : ": " + tip.substr(2));
}

// A measure of quality over a measure of size.
struct Trade {
  const char* id;
  const char* title;
  const char* quality;  ///< label of y
  Value y;
  bool percent;  ///< of answers: larger is better, 100 at most; else smaller is better
};

const std::vector<Trade>& trades() {
  static const std::vector<Trade> all = {
      {"kl-bytes", "KL divergence against bits", "KL from baseline, nats per token", mean_kl,
       false},
      {"ppl-bytes", "Perplexity against bits", "perplexity per token", field("ppl"), false},
      {"recall-bytes", "Recall against bytes", "right answers, %", field("recall", 100.0), true},
      {"retrieval-bytes", "Retrieval against bytes", "right answers, %", retrieval_percent, true}};
  return all;
}

struct Points {
  std::vector<Mark> marks;
  std::vector<const Plan*> plans;  ///< whose they are
  std::vector<std::size_t> front;
};

Points points_of(const std::vector<Plan>& plans, const Value& x, const Trade& trade) {
  Points points;
  std::vector<Mark> costs;
  for (const Plan& plan : plans) {
    const std::optional<double> size = x(*plan.data);
    const std::optional<double> quality = trade.y(*plan.data);
    if (!size || !quality) continue;
    points.marks.push_back({*size, *quality, summary(plan)});
    points.plans.push_back(&plan);
    costs.push_back({*size, trade.percent ? -*quality : *quality, ""});
  }
  points.front = pareto_front(costs);
  return points;
}

std::vector<double> values(const std::vector<Mark>& marks, double Mark::*member) {
  std::vector<double> all;
  for (const Mark& m : marks) all.push_back(m.*member);
  return all;
}

Axis percent_axis(const std::string& label, const std::vector<double>& percents) {
  return Axis::linear(label, std::min(90.0, *std::min_element(percents.begin(), percents.end())),
                      100.0);
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : "; ") + name;
  return text;
}

// Bytes in the largest unit that leaves no value below 1, if all plans have bytes; else bits.
std::pair<Value, std::string> size_measure(const std::vector<Plan>& plans, const Trade& trade) {
  double least = std::numeric_limits<double>::infinity();
  for (const Plan& plan : plans) {
    if (!trade.y(*plan.data)) continue;
    const std::optional<double> bytes = number(*plan.data, "kv_bytes");
    if (!bytes || !trade.percent) return {bits, "bits per value"};
    least = std::min(least, *bytes);
  }
  int unit = 0;
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
  for (; unit < 3 && least >= 1024; ++unit) least /= 1024;
  return {field("kv_bytes", std::pow(1024.0, -unit)), std::string("KV cache, ") + kUnits[unit]};
}

std::optional<Drawing> draw_trade(const std::vector<Plan>& plans, const Trade& trade) {
  const auto [size, size_label] = size_measure(plans, trade);
  const Points points = points_of(plans, size, trade);
  if (points.marks.empty()) return std::nullopt;
  const std::vector<double> qualities = values(points.marks, &Mark::y);
  Plot plot(trade.id, trade.title, axis_for(size_label, values(points.marks, &Mark::x), 2, true, 3),
            trade.percent ? percent_axis(trade.quality, qualities)
                          : axis_for(trade.quality, qualities, 10));
  std::vector<Mark> front;
  std::vector<Mark> named;
  std::vector<std::string> names;
  for (const std::size_t i : points.front) {
    front.push_back(points.marks[i]);
    names.push_back(points.plans[i]->name);
    named.push_back({points.marks[i].x, points.marks[i].y, names.back()});
  }
  plot.line(kNeutral, front);
  plot.key(kNeutral, "Pareto front", true, Fill::solid, false, false);
  for (std::size_t i = 0; i < points.marks.size(); ++i) {
    const bool on_front =
        std::find(points.front.begin(), points.front.end(), i) != points.front.end();
    const Fill fill = on_front ? Fill::solid : Fill::hollow;
    plot.marks(points.plans[i]->style, {points.marks[i]}, fill);
    plot.key(points.plans[i]->style, points.plans[i]->name, false, fill);
  }
  plot.names(named, points.marks);
  return plot.finish(
      "Filled marks: on the Pareto front, no plan is both smaller and better. Front: " +
      joined(names) + ".");
}

// One line per plan over the entries of a list.
struct Lines {
  const char* id;
  const char* title;
  const char* list;
  std::function<std::optional<Mark>(const Plan& plan, const Json& entry)> mark;
};

using Series = std::vector<std::pair<const Plan*, std::vector<Mark>>>;

Series series_of(const std::vector<Plan>& plans, const Lines& lines) {
  Series series;
  for (const Plan& plan : plans) {
    std::vector<Mark> marks;
    for (const Json& entry : list(*plan.data, lines.list)) {
      if (const std::optional<Mark> mark = lines.mark(plan, entry)) marks.push_back(*mark);
    }
    std::sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) { return a.x < b.x; });
    if (!marks.empty()) series.emplace_back(&plan, marks);
  }
  return series;
}

void draw_series(Plot& plot, const Series& series, bool second) {
  const Fill fill = second ? Fill::hollow : Fill::solid;
  for (const auto& [plan, marks] : series) plot.line(plan->style, marks, second);
  for (const auto& [plan, marks] : series) plot.marks(plan->style, marks, fill);
  if (second) return;
  for (const auto& [plan, marks] : series) plot.key(plan->style, plan->name, true);
}

std::vector<double> all_values(const Series& series, double Mark::*member) {
  std::vector<double> all;
  for (const auto& [plan, marks] : series) {
    const std::vector<double> some = values(marks, member);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

// Right answers of one entry with from, to, right, asked, in per cent over x.
std::optional<Mark> answers(const Plan& plan, const Json& entry, double x,
                            const std::string& where) {
  const std::optional<double> right = number(entry, "right");
  const std::optional<double> asked = number(entry, "asked");
  if (!right || !asked || *asked <= 0) return std::nullopt;
  const auto [low, high] = share_range(*right, *asked);
  return Mark{x, 100.0 * *right / *asked,
              plan.name + ", " + where + ": " + short_number(*right) + " of " +
                  short_number(*asked) + " right, " + short_number(100.0 * *right / *asked) +
                  " % (95 % range " + fixed(100 * low, 0) + " to " + fixed(100 * high, 0) + " %)"};
}

Table answers_table(const char* id, const char* caption, const char* from_to, double scale,
                    const char* name, const std::vector<Plan>& plans) {
  Table table{id,
              caption,
              {{"Plan", "", true},
               {"From", from_to},
               {"To", from_to},
               {"Right", "answers"},
               {"Asked", "questions"},
               {"Recall", "%"}},
              {},
              true};
  const auto cell = [](std::optional<double> v) { return v ? Cell{short_number(*v), v} : Cell{}; };
  for (const Plan& plan : plans) {
    for (const Json& entry : list(*plan.data, name)) {
      const auto right = number(entry, "right");
      const auto asked = number(entry, "asked");
      Row row;
      row.cells.push_back({plan.name, {}});
      for (const char* end : {"from", "to"}) {
        auto value = number(entry, end);
        if (value) *value *= scale;
        row.cells.push_back(cell(value));
      }
      row.cells.push_back(cell(right));
      row.cells.push_back(cell(asked));
      const bool known = right && asked && *asked > 0;
      row.cells.push_back(known ? Cell{fixed(100.0 * *right / *asked, 1), *right / *asked}
                                : Cell{});
      table.rows.push_back(row);
    }
  }
  return table;
}

Lines recall_by_distance() {
  return {"recall-distance", "Recall against distance", "recall_by_distance",
          [](const Plan& plan, const Json& entry) -> std::optional<Mark> {
            const auto from = number(entry, "from");
            const auto to = number(entry, "to");
            if (!from || !to) return std::nullopt;
            const double middle = std::sqrt(std::max(1.0, *from) * std::max(1.0, *to));
            return answers(plan, entry, middle,
                           short_number(*from) + " to " + short_number(*to) + " tokens back");
          }};
}

Lines recall_by_depth() {
  return {"recall-depth", "Recall against depth", "recall_by_depth",
          [](const Plan& plan, const Json& entry) -> std::optional<Mark> {
            const auto from = number(entry, "from");
            const auto to = number(entry, "to");
            if (!from || !to) return std::nullopt;
            return answers(
                plan, entry, 50.0 * (*from + *to),
                "depth " + short_number(100 * *from) + " to " + short_number(100 * *to) + " %");
          }};
}

Lines times(const char* id, const char* title, const char* list_name, const char* x, const char* y,
            const char* what) {
  return {id, title, list_name,
          [x, y, what](const Plan& plan, const Json& entry) -> std::optional<Mark> {
            const auto tokens = number(entry, x);
            const auto ms = number(entry, y);
            if (!tokens || !ms) return std::nullopt;
            return Mark{*tokens, *ms,
                        plan.name + ", " + short_number(*tokens) + " tokens: " + what +
                            short_number(*ms) + " ms"};
          }};
}

}  // namespace

std::vector<std::size_t> pareto_front(const std::vector<Mark>& points) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto less = [&](std::size_t a, std::size_t b) {
    return std::pair(points[a].x, points[a].y) < std::pair(points[b].x, points[b].y);
  };
  std::stable_sort(order.begin(), order.end(), less);
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    const bool first = front.empty() || points[i].y < points[front.back()].y;
    const bool equal = !front.empty() && points[i].y == points[front.back()].y &&
                       points[i].x == points[front.back()].x;
    if (first || equal) front.push_back(i);
  }
  return front;
}

std::pair<double, double> share_range(double right, double asked) {
  constexpr double z = 1.959964;  // 95 % of a normal distribution
  const double share = right / asked;
  const double middle = share + z * z / (2 * asked);
  const double half = z * std::sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked));
  const double whole = 1 + z * z / asked;
  return {std::max(0.0, (middle - half) / whole), std::min(1.0, (middle + half) / whole)};
}

std::optional<double> retrieval_share(const Json& plan) {
  double right = 0;
  double asked = 0;
  for (const Json& entry : list(plan, "retrieval")) {
    const auto r = number(entry, "right");
    const auto a = number(entry, "asked");
    if (!r || !a) continue;
    right += *r;
    asked += *a;
  }
  return asked > 0 ? std::optional(right / asked) : std::nullopt;
}

Axis axis_for(const std::string& label, const std::vector<double>& all, int base, bool from_zero,
              double spread) {
  double least = std::numeric_limits<double>::infinity();  // above 0
  for (const double v : all) {
    if (v > 0) least = std::min(least, v);
  }
  const auto [lo, hi] = std::minmax_element(all.begin(), all.end());
  if (*lo >= 0 && *hi > spread * least) return Axis::logarithmic(label, least, *hi, base, *lo == 0);
  return Axis::linear(label, from_zero ? std::min(0.0, *lo) : *lo, *hi);
}

std::vector<int> front_of(const std::vector<Plan>& plans) {
  std::vector<int> front;
  for (const Trade& trade : trades()) {
    const Points points = points_of(plans, size_measure(plans, trade).first, trade);
    for (const std::size_t i : points.front) front.push_back(points.plans[i]->style);
    if (!front.empty()) break;
  }
  return front;
}

Section quality_section(const std::vector<Plan>& plans) {
  Section section{"quality",
                  "Quality against bytes",
                  "Left is smaller. Divergence and perplexity: lower is better; recall: higher is "
                  "better.",
                  {{}},
                  {},
                  {}};
  for (const Trade& trade : trades()) {
    if (const std::optional<Drawing> drawing = draw_trade(plans, trade)) {
      section.groups[0].drawings.push_back(*drawing);
    } else {
      section.missing.push_back(trade.title);
    }
  }
  return section;
}

Section recall_section(const std::vector<Plan>& plans) {
  Section section{"recall",
                  "Recall",
                  "Share of questions answered right, by how many tokens before the question the "
                  "answer stands, and by where in the context it stands (0 %: at its beginning).",
                  {{}},
                  {},
                  {}};
  for (const Lines& lines : {recall_by_distance(), recall_by_depth()}) {
    const Series series = series_of(plans, lines);
    if (series.empty()) {
      section.missing.push_back(lines.title);
      continue;
    }
    const bool depth = std::string(lines.id) == "recall-depth";
    const Axis x = depth ? Axis::linear("depth in the context, %", 0, 100)
                         : axis_for("distance, tokens", all_values(series, &Mark::x), 2);
    Plot plot(lines.id, lines.title, x, Axis::linear("right answers, %", 0, 100));
    draw_series(plot, series, false);
    section.groups[0].drawings.push_back(
        plot.finish("Each point stands in the middle of its range."));
    section.tables.push_back(
        depth ? answers_table("recall-depth-table", "Recall by depth", "%", 100, lines.list, plans)
              : answers_table("recall-distance-table", "Recall by distance", "tokens", 1,
                              lines.list, plans));
  }
  return section;
}

Section latency_section(const std::vector<Plan>& plans) {
  Section section{"latency", "Latency", "Times of this run on this machine.", {{}}, {}, {}};
  const Series p50 = series_of(
      plans, times("decode-latency", "Decode latency", "decode", "context", "p50_ms", "p50 "));
  const Series p99 = series_of(
      plans, times("decode-latency", "Decode latency", "decode", "context", "p99_ms", "p99 "));
  Series both = p50;
  both.insert(both.end(), p99.begin(), p99.end());
  if (both.empty()) {
    section.missing.push_back("Decode latency against context");
  } else {
    Plot plot("decode-latency", "Decode latency against context",
              axis_for("context, tokens", all_values(both, &Mark::x), 2),
              axis_for("time per token, ms", all_values(both, &Mark::y), 10, true));
    draw_series(plot, p99, true);
    draw_series(plot, p50, false);
    plot.key(kNeutral, "p50", true);
    plot.key(kNeutral, "p99", true, Fill::hollow, true);
    section.groups[0].drawings.push_back(plot.finish(
        "Filled marks: half of the tokens are faster (p50). Hollow marks: 99 of 100 are "
        "faster (p99)."));
  }
  const Series ttft =
      series_of(plans, times("ttft", "Time to first token", "ttft_ms", "tokens", "ms", ""));
  if (ttft.empty()) {
    section.missing.push_back("Time to first token");
  } else {
    Plot plot("ttft", "Time to first token",
              axis_for("prompt, tokens", all_values(ttft, &Mark::x), 2),
              axis_for("time, ms", all_values(ttft, &Mark::y), 10, true));
    draw_series(plot, ttft, false);
    section.groups[0].drawings.push_back(plot.finish("From the prompt to the first new token."));
  }
  return section;
}

}  // namespace kvcodec::report
