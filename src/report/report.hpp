// Draws what `kvcodec eval` measured: one page for a browser, and its plots as files.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace kvcodec::report {

using Json = nlohmann::ordered_json;

/// Throws invalid_argument unless `folder` can be made and written to; called before long work, not
/// after it. Leaves the folder behind.
void check_folder(const std::filesystem::path& folder);

/// Writes folder/report.html, which needs nothing else (no network, no other file), and
/// folder/plots/<plot>.svg; makes the folders. `report` is what `kvcodec eval` writes as report.json
/// (docs/eval-report.md): whatever it lacks is called "not measured". Each file appears whole or not
/// at all; plots of an earlier report that this one has not are removed.
///
/// Throws invalid_argument when `report` is no object with an array "plans", and error naming a file
/// that cannot be written.
void write_report(const Json& report, const std::filesystem::path& folder);

}  // namespace kvcodec::report
