// The parts of a report, each from what a run measured to drawings and tables.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/report/json_read.hpp"
#include "src/report/svg.hpp"

namespace kvcodec::report {

/// A plan of the report. Borrows from the report's JSON.
struct Plan {
  std::string name;
  const Json* data = nullptr;
  int style = 0;  ///< its number, the same in every plot
  bool baseline = false;
};

std::vector<Plan> plans_of(const Json& report);

struct Column {
  std::string heading;
  std::string unit;      ///< may be empty
  bool is_text = false;  ///< sorted as text and set to the left
};

struct Cell {
  std::string text;             ///< empty: not measured
  std::optional<double> value;  ///< what the column is sorted by, unless it is_text
};

struct Row {
  std::vector<Cell> cells;
  std::vector<std::string> badges;  ///< beside the first cell
};

struct Table {
  std::string id;
  std::string caption;
  std::vector<Column> columns;
  std::vector<Row> rows;
  bool folded = false;  ///< behind a button
};

/// Drawings of one size that belong together.
struct Group {
  std::string heading;  ///< may be empty
  std::vector<Drawing> drawings;
};

struct Section {
  std::string id;
  std::string heading;
  std::string about;  ///< how to read it
  std::vector<Group> groups;
  std::vector<Table> tables;
  std::vector<std::string> missing;  ///< what was not measured
};

/// Indices of the points that no other point beats: none has both smaller or equal coordinates, one
/// of them smaller. By x, then y; equal points all stay.
std::vector<std::size_t> pareto_front(const std::vector<Mark>& points);

/// The range in which the true share of `right` out of `asked` > 0 lies with 95 %, by Wilson.
std::pair<double, double> share_range(double right, double asked);

/// Right answers over questions of all entries of plan["retrieval"]; nothing without questions.
std::optional<double> retrieval_share(const Json& plan);

/// The axis that fits `values`: logarithmic where they differ by more than a factor of `spread` above 0,
/// with a place for zeros; else linear, from 0 if asked for.
Axis axis_for(const std::string& label, const std::vector<double>& values, int base,
              bool from_zero = false, double spread = 8.0);

/// Numbers of the plans whose quality no smaller plan reaches, by the first measure of: KL divergence,
/// perplexity, recall, retrieval. Empty when nothing was measured.
std::vector<int> front_of(const std::vector<Plan>& plans);

Section plan_section(const std::vector<Plan>& plans);
Section quality_section(const std::vector<Plan>& plans);
Section recall_section(const std::vector<Plan>& plans);
Section retrieval_section(const std::vector<Plan>& plans);
Section attention_section(const std::vector<Plan>& plans);
Section latency_section(const std::vector<Plan>& plans);
Section distribution_section(const Json& report);

}  // namespace kvcodec::report
