#include "src/report/report.hpp"

#include <fstream>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "src/output/output.hpp"
#include "src/report/assets.hpp"
#include "src/report/page.hpp"
#include "src/report/section.hpp"

namespace kvcodec::report {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSvgStart =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"kvcodec-plot\"";

// Only files that start as ours do: the folder may hold a user's own drawings.
void remove_others(const fs::path& folder, const std::set<std::string>& written) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".svg" || written.contains(name)) continue;
    std::string start(std::string(kSvgStart).size(), '\0');
    std::ifstream(entry.path()).read(start.data(), std::ssize(start));
    std::error_code ignored;
    if (start == kSvgStart) fs::remove(entry.path(), ignored);
  }
}

// A name of a file stands for one drawing, whatever the run called its tasks and layers.
void number_equal_ids(std::vector<Section>& sections) {
  std::map<std::string, int> seen;
  for (Section& section : sections) {
    for (Group& group : section.groups) {
      for (Drawing& drawing : group.drawings) {
        const int n = ++seen[drawing.id];
        if (n > 1) drawing.id += "-" + std::to_string(n) + "x";
      }
    }
  }
}

std::vector<Section> sections_of(const Json& report, const std::vector<Plan>& plans) {
  std::vector<Section> sections = {plan_section(plans),         quality_section(plans),
                                   recall_section(plans),       retrieval_section(plans),
                                   attention_section(plans),    latency_section(plans),
                                   distribution_section(report)};
  number_equal_ids(sections);
  return sections;
}

}  // namespace

void check_folder(const fs::path& folder) {
  std::error_code failed;
  fs::create_directories(folder / "plots", failed);
  bool good = !failed;
  for (const fs::path& inside : {folder, folder / "plots"}) {
    good = good && output::can_write((inside / "report").string());
  }
  if (!good) {
    throw invalid_argument(
        bad_value("report", "folder", folder.string(), "a folder that can be made and written to"));
  }
}

void write_report(const Json& report, const fs::path& folder) {
  if (!report.is_object() || !report.contains("plans") || !report["plans"].is_array()) {
    throw invalid_argument(
        bad_value("report", "report", report.type_name(), "an object with an array \"plans\""));
  }
  check_folder(folder);
  // Through text and back: strings become UTF-8, and numbers that are none become null.
  const Json clean = Json::parse(report.dump(-1, ' ', false, Json::error_handler_t::replace));
  const std::vector<Plan> plans = plans_of(clean);
  const std::vector<Section> sections = sections_of(clean, plans);
  const std::string page = to_page(clean, plans, sections);
  std::set<std::string> written;
  for (const Section& section : sections) {
    for (const Group& group : section.groups) {
      for (const Drawing& drawing : group.drawings) {
        written.insert(drawing.id + ".svg");
        output::write_text((folder / "plots" / (drawing.id + ".svg")).string(),
                           to_svg(drawing, kPlotCss));
      }
    }
  }
  remove_others(folder / "plots", written);
  output::write_text((folder / "report.html").string(), page);
}

}  // namespace kvcodec::report
