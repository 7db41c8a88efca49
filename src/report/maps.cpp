// Sections whose plots are fields: errors by layer and head, retrieval by length and depth, and the
// distributions of keys and values.
#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>

#include "src/report/section.hpp"
#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

constexpr int kBarRoom = 84;  // right of a heat map, for its colours

std::string two_digits(int n) { return (n < 10 ? "0" : "") + std::to_string(n); }

std::vector<std::string> numbered(int n, bool downwards) {
  std::vector<std::string> names;
  for (int i = 0; i < n; ++i) names.push_back(std::to_string(downwards ? n - 1 - i : i));
  return names;
}

// One plan's errors. Rows may differ in length, and any may be missing.
struct HeadErrors {
  const Plan* plan;
  std::vector<std::vector<std::optional<double>>> layers;
  int n_heads = 0;
};

std::vector<HeadErrors> head_errors(const std::vector<Plan>& plans) {
  std::vector<HeadErrors> all;
  for (const Plan& plan : plans) {
    HeadErrors errors{&plan, {}, 0};
    for (const Json& layer : list(member(*plan.data, "attention"), "heads")) {
      errors.layers.emplace_back();
      if (!layer.is_array()) continue;
      for (const Json& value : layer) {
        errors.layers.back().push_back(value.is_number() ? std::optional(value.get<double>())
                                                         : std::nullopt);
      }
      errors.n_heads = std::max(errors.n_heads, static_cast<int>(errors.layers.back().size()));
    }
    if (errors.n_heads > 0) all.push_back(errors);
  }
  return all;
}

std::vector<double> present(const std::vector<HeadErrors>& all) {
  std::vector<double> values;
  for (const HeadErrors& errors : all) {
    for (const auto& layer : errors.layers) {
      for (const auto& value : layer) {
        if (value) values.push_back(*value);
      }
    }
  }
  return values;
}

std::string worst_text(const Json& plan) {
  const Json& attention = member(plan, "attention");
  const auto worst = number(attention, "out_err_worst");
  if (!worst) return "";
  const auto layer = number(attention, "worst_layer");
  const auto head = number(attention, "worst_head");
  return " Worst error: " + short_number(*worst) +
         (layer && head ? ", layer " + fixed(*layer, 0) + ", head " + fixed(*head, 0) : "") + ".";
}

Drawing draw_errors(const HeadErrors& errors, const Axis& colours) {
  const int n_layers = static_cast<int>(errors.layers.size());
  Plot::Size size;
  size.right = kBarRoom;
  size.height = std::clamp(n_layers * 22, 160, std::max(300, n_layers * 5));
  Plot plot("errors-" + two_digits(errors.plan->style + 1), "Error: " + errors.plan->name,
            Axis::fields("query head", numbered(errors.n_heads, false)),
            Axis::fields("layer", numbered(n_layers, true), true), size);
  bool written = true;  // in all cells or in none
  for (const double value : present({errors})) {
    written = written && plot.fits_cell(short_number(value));
  }
  std::optional<Mark> worst;
  double worst_value = 0;
  for (int layer = 0; layer < n_layers; ++layer) {
    const auto& heads = errors.layers[static_cast<std::size_t>(layer)];
    for (std::size_t head = 0; head < heads.size(); ++head) {
      if (!heads[head]) continue;
      const double value = *heads[head];
      const Mark at{static_cast<double>(head), static_cast<double>(n_layers - 1 - layer),
                    "layer " + std::to_string(layer) + ", head " + std::to_string(head) +
                        ": error " + short_number(value)};
      plot.cell(at, heat_colour(colours.place(value)), written ? short_number(value) : "");
      if (!worst || value > worst_value) {
        worst = at;
        worst_value = value;
      }
    }
  }
  if (worst) plot.outline(worst->x, worst->y);
  plot.colour_bar("error of the output", colours);
  return plot.finish("Framed: the worst cell." + worst_text(*errors.plan->data));
}

// Answers of one task of one plan by length and depth; a depth below 0 stands for none.
using Answers = std::map<std::pair<double, double>, std::pair<double, double>>;

std::map<std::string, Answers> tasks_of(const Json& plan) {
  std::map<std::string, Answers> tasks;
  for (const Json& entry : list(plan, "retrieval")) {
    const auto length = number(entry, "length");
    const auto right = number(entry, "right");
    const auto asked = number(entry, "asked");
    if (!length || !right || !asked || *asked <= 0) continue;
    auto& sums = tasks[text(entry, "task")][{*length, number(entry, "depth").value_or(-1.0)}];
    sums.first += *right;
    sums.second += *asked;
  }
  return tasks;
}

std::string length_text(double tokens) {
  return tokens >= 1024 && std::fmod(tokens, 1024) == 0 ? fixed(tokens / 1024, 0) + "k"
                                                        : short_number(tokens);
}

std::string depth_text(double depth) {
  return depth < 0 ? "any" : short_number(std::round(1000 * depth) / 10) + " %";
}

// Both axes hold what any plan was asked, so that the maps of a task compare.
Drawing draw_answers(const Plan& plan, const std::string& id, const std::string& heading,
                     const Answers& answers, const std::set<double>& lengths,
                     const std::set<double>& depths) {
  std::vector<std::string> columns;
  std::vector<std::string> rows;
  for (const double length : lengths) columns.push_back(length_text(length));
  for (auto depth = depths.rbegin(); depth != depths.rend(); ++depth) {
    rows.push_back(depth_text(*depth));
  }
  Plot::Size size;
  size.width = 360;
  size.right = kBarRoom;
  size.height = std::clamp(static_cast<int>(rows.size()) * 26, 120, 300);
  Plot plot(id, heading + ": " + plan.name, Axis::fields("context, tokens", columns),
            Axis::fields("depth of the needle", rows), size);
  double right = 0;
  double asked = 0;
  for (const auto& [at, sums] : answers) {
    const auto column = std::distance(lengths.begin(), lengths.find(at.first));
    const auto row = std::distance(depths.find(at.second), depths.end()) - 1;
    const double share = sums.first / sums.second;
    plot.cell({static_cast<double>(column), static_cast<double>(row),
               short_number(at.first) + " tokens, depth " + depth_text(at.second) + ": " +
                   short_number(sums.first) + " of " + short_number(sums.second) + " right"},
              heat_colour(share), plot.fits_cell("100") ? fixed(100 * share, 0) : "");
    right += sums.first;
    asked += sums.second;
  }
  plot.colour_bar("right answers, %", Axis::linear("", 0, 100));
  return plot.finish("In all " + short_number(right) + " of " + short_number(asked) + " right.");
}

std::string task_id(const std::string& task) {
  std::string id;
  for (const char c : task) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    id += plain ? c : '-';
  }
  return id.substr(0, 40);
}

struct Distribution {
  int layer = 0;
  std::string side;  // "K" or "V"
  const Json* data = nullptr;
};

std::vector<Distribution> distributions_of(const Json& report) {
  std::vector<Distribution> all;
  for (const Json& entry : list(report, "distributions")) {
    const auto layer = number(entry, "layer");
    const std::string side = text(entry, "side");
    if (!layer || *layer < 0 || *layer > 1e6 || (side != "k" && side != "v")) continue;
    all.push_back({static_cast<int>(*layer), side == "k" ? "K" : "V", &entry});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Distribution& a, const Distribution& b) { return a.layer < b.layer; });
  return all;
}

std::string share_text(const Json& data, const char* name) {
  const auto share = number(data, name);
  return share ? fixed(100 * *share, 0) + " %" : "not measured";
}

std::optional<Drawing> draw_histogram(const Distribution& d) {
  const Json& counts = list(*d.data, "counts");
  const auto lo = number(*d.data, "lo");
  const auto hi = number(*d.data, "hi");
  double total = 0;
  for (const Json& count : counts) total += count.is_number() ? count.get<double>() : 0;
  if (!lo || !hi || *lo >= *hi || total <= 0) return std::nullopt;
  const double width = (*hi - *lo) / static_cast<double>(counts.size());
  std::vector<Mark> bars;
  double tallest = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double left = *lo + static_cast<double>(i) * width;
    const double percent = counts[i].is_number() ? 100 * counts[i].get<double>() / total : 0;
    tallest = std::max(tallest, percent);
    bars.push_back({left + width / 2, percent,
                    short_number(left) + " to " + short_number(left + width) + ": " +
                        short_number(percent) + " %"});
  }
  std::vector<Mark> curve;
  const auto mean = number(*d.data, "mean");
  const auto stddev = number(*d.data, "stddev");
  if (mean && stddev && *stddev > 0) {
    constexpr int kSteps = 96;
    for (int i = 0; i <= kSteps; ++i) {
      const double x = *lo + (*hi - *lo) * i / kSteps;
      const double z = (x - *mean) / *stddev;
      curve.push_back({x,
                       100 * width / *stddev * std::exp(-z * z / 2) * std::numbers::inv_sqrtpi /
                           std::numbers::sqrt2,
                       ""});
      tallest = std::max(tallest, curve.back().y);
    }
  }
  Plot::Size size;
  size.width = 320;
  size.height = 150;
  size.inset = 0;
  const std::string side = d.side == "K" ? "keys" : "values";
  Plot plot(std::string(side) + "-" + two_digits(d.layer),
            "Layer " + std::to_string(d.layer) + ", " + side, Axis::linear("value", *lo, *hi),
            Axis::linear("share, %", 0, tallest), size);
  plot.bars(d.side == "K" ? 0 : 1, bars, width);
  if (!curve.empty()) plot.line(kNeutral, curve);
  return plot.finish("Normal at 5 %: " + share_text(*d.data, "normal_share") + " of groups, " +
                     share_text(*d.data, "normal_share_pooled") + " pooled.");
}

std::optional<Drawing> draw_normality(const std::vector<Distribution>& all) {
  std::vector<std::string> names;
  std::map<int, double> places;
  for (const Distribution& d : all) {
    if (places.emplace(d.layer, static_cast<double>(places.size())).second) {
      names.push_back(std::to_string(d.layer));
    }
  }
  if (names.empty()) return std::nullopt;
  Plot plot("normality", "Groups that pass the test of normality", Axis::fields("layer", names),
            Axis::linear("groups that pass, %", 0, 100));
  bool any = false;
  for (const bool pooled : {true, false}) {
    for (const std::string side : {"K", "V"}) {
      std::vector<Mark> marks;
      for (const Distribution& d : all) {
        const auto share = number(*d.data, pooled ? "normal_share_pooled" : "normal_share");
        if (d.side != side || !share) continue;
        marks.push_back({places[d.layer], 100 * *share,
                         "layer " + std::to_string(d.layer) + ", " + side +
                             (pooled ? ", pooled: " : ", one channel: ") +
                             short_number(100 * *share) + " % pass"});
      }
      if (marks.empty()) continue;
      any = true;
      const int style = side == "K" ? 0 : 1;
      const Fill fill = pooled ? Fill::hollow : Fill::solid;
      plot.line(style, marks, pooled);
      plot.marks(style, marks, fill);
      plot.key(style, side + (pooled ? ", pooled groups" : ", groups of one channel"), true, fill,
               pooled);
    }
  }
  if (!any) return std::nullopt;
  return plot.finish("D'Agostino-Pearson at 5 %: of normal values 95 % of groups pass.");
}

Table distribution_table(const std::vector<Distribution>& all) {
  Table table{"distribution-table",
              "Moments and normality",
              {{"Layer", ""},
               {"Side", "", true},
               {"Mean", ""},
               {"Deviation", ""},
               {"Skew", ""},
               {"Kurtosis", ""},
               {"Normal groups", "%"},
               {"Normal pooled groups", "%"}},
              {},
              true};
  for (const Distribution& d : all) {
    Row row;
    row.cells.push_back({std::to_string(d.layer), d.layer});
    row.cells.push_back({d.side, {}});
    for (const char* name : {"mean", "stddev", "skew", "kurtosis"}) {
      const auto value = number(*d.data, name);
      row.cells.push_back(value ? Cell{short_number(*value), value} : Cell{});
    }
    for (const char* name : {"normal_share", "normal_share_pooled"}) {
      const auto value = number(*d.data, name);
      row.cells.push_back(value ? Cell{fixed(100 * *value, 1), value} : Cell{});
    }
    table.rows.push_back(row);
  }
  return table;
}

}  // namespace

Section attention_section(const std::vector<Plan>& plans) {
  Section section{"attention",
                  "Attention error by layer and head",
                  "Error of the attention output of each query head. All plans share one scale of "
                  "colours: yellow is worse.",
                  {{}},
                  {},
                  {}};
  const std::vector<HeadErrors> all = head_errors(plans);
  const std::vector<double> values = present(all);
  if (values.empty()) {
    section.missing.push_back("Attention error by layer and head");
    return section;
  }
  const Axis colours = axis_for("", values, 10, true);
  for (const HeadErrors& errors : all) {
    section.groups[0].drawings.push_back(draw_errors(errors, colours));
  }
  return section;
}

Section retrieval_section(const std::vector<Plan>& plans) {
  Section section{"retrieval",
                  "Retrieval by length and depth",
                  "Share of planted needles that were found, by length of the context and by where "
                  "in it the needle stands (0 %: at its beginning). Yellow is better.",
                  {},
                  {},
                  {}};
  struct Task {
    std::set<double> lengths, depths;
    std::vector<std::pair<const Plan*, Answers>> plans;
  };
  std::map<std::string, Task> tasks;
  for (const Plan& plan : plans) {
    for (const auto& [name, answers] : tasks_of(*plan.data)) {
      Task& task = tasks[name];
      task.plans.emplace_back(&plan, answers);
      for (const auto& [at, sums] : answers) {
        task.lengths.insert(at.first);
        task.depths.insert(at.second);
      }
    }
  }
  for (const auto& [name, task] : tasks) {
    std::string heading = name.empty() ? "Retrieval" : name;
    std::replace(heading.begin(), heading.end(), '_', ' ');
    Group group{heading, {}};
    for (const auto& [plan, answers] : task.plans) {
      const std::string id = "retrieval-" + task_id(name) + "-" + two_digits(plan->style + 1);
      group.drawings.push_back(
          draw_answers(*plan, id, heading, answers, task.lengths, task.depths));
    }
    section.groups.push_back(group);
  }
  if (tasks.empty()) section.missing.push_back("Retrieval by length and depth");
  return section;
}

Section distribution_section(const Json& report) {
  Section section{"distributions",
                  "Distribution of keys and values",
                  "Bars: what was measured. Curve: the normal distribution of the same mean and "
                  "deviation.",
                  {{}, {"Keys", {}}, {"Values", {}}},
                  {},
                  {}};
  const std::vector<Distribution> all = distributions_of(report);
  if (const std::optional<Drawing> drawing = draw_normality(all)) {
    section.groups[0].drawings.push_back(*drawing);
  } else {
    section.missing.push_back("Normality");
  }
  for (const Distribution& d : all) {
    const std::optional<Drawing> drawing = draw_histogram(d);
    if (drawing) section.groups[d.side == "K" ? 1 : 2].drawings.push_back(*drawing);
  }
  if (section.groups[1].drawings.empty()) section.missing.push_back("Histograms of keys");
  if (section.groups[2].drawings.empty()) section.missing.push_back("Histograms of values");
  if (!all.empty()) section.tables.push_back(distribution_table(all));
  return section;
}

}  // namespace kvcodec::report
