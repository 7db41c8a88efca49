// The page of a report.
#pragma once

#include <string>
#include <vector>

#include "src/report/section.hpp"

namespace kvcodec::report {

/// The whole HTML file. Plots stand in it as SVG and link to plots/<id>.svg.
std::string to_page(const Json& report, const std::vector<Plan>& plans,
                    const std::vector<Section>& sections);

}  // namespace kvcodec::report
