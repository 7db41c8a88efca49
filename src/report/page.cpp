#include "src/report/page.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "src/report/assets.hpp"
#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

std::string element(const std::string& name, const std::string& text) {
  return "<" + name + ">" + escape(text) + "</" + name.substr(0, name.find(' ')) + ">\n";
}

std::string exact(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string heading_cell(const Column& column) {
  const std::string unit = column.unit.empty() ? "" : " <small>" + escape(column.unit) + "</small>";
  return std::string("<th scope=\"col\" aria-sort=\"none\"") +
         (column.is_text ? " class=\"words\"" : "") + "><button type=\"button\">" +
         escape(column.heading) + unit + "</button></th>\n";
}

std::string data_cell(const Column& column, const Cell& cell, const std::string& badges,
                      bool first) {
  const std::string name = first ? "th" : "td";
  std::string html = "<" + name + (first ? " scope=\"row\"" : "");
  if (column.is_text) html += " class=\"words\" data-text=\"" + escape(cell.text) + "\"";
  if (cell.value) html += " data-value=\"" + exact(*cell.value) + "\"";
  html += ">";
  html += cell.text.empty() ? "<span class=\"none\" title=\"not measured\">n/a</span>"
                            : escape(cell.text);
  return html + badges + "</" + name + ">";
}

std::string to_html(const Table& table) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" +
                     escape(table.caption) + "\">\n<table id=\"" + escape(table.id) + "\">\n" +
                     element("caption", table.caption) + "<thead><tr>\n";
  for (const Column& column : table.columns) html += heading_cell(column);
  html += "</tr></thead>\n<tbody>\n";
  for (const Row& row : table.rows) {
    std::string badges;
    for (const std::string& badge : row.badges) {
      badges += " <span class=\"badge\">" + escape(badge) + "</span>";
    }
    html += "<tr>";
    for (std::size_t i = 0; i < row.cells.size(); ++i) {
      html += data_cell(table.columns[i], row.cells[i], i == 0 ? badges : "", i == 0);
    }
    html += "</tr>\n";
  }
  html += "</tbody>\n</table>\n</div>\n";
  if (!table.folded) return html;
  return "<details>\n" + element("summary", table.caption + " in numbers") + html + "</details>\n";
}

std::string to_html(const Group& group) {
  if (group.drawings.empty()) return "";
  std::string html = group.heading.empty() ? "" : element("h3", group.heading);
  html += "<div class=\"plots\" style=\"--plot-width: " +
          std::to_string(group.drawings.front().width - 20) + "px\">\n";
  for (const Drawing& d : group.drawings) {
    html += "<figure>\n" + to_svg(d) + "<figcaption>" + escape(d.caption) + " <a href=\"plots/" +
            escape(d.id) + ".svg\" aria-label=\"SVG file: " + escape(d.title) +
            "\">SVG</a></figcaption>\n</figure>\n";
  }
  return html + "</div>\n";
}

std::string to_html(const Section& section) {
  std::string html =
      "<section id=\"" + escape(section.id) + "\">\n" + element("h2", section.heading);
  std::string content;
  for (const Group& group : section.groups) content += to_html(group);
  for (const Table& table : section.tables) content += to_html(table);
  if (!content.empty()) html += element("p class=\"about\"", section.about) + content;
  std::string missing;
  for (const std::string& what : section.missing) missing += (missing.empty() ? "" : ", ") + what;
  if (!missing.empty()) html += element("p class=\"missing\"", "Not measured: " + missing + ".");
  return html + "</section>\n";
}

// `html` is escaped.
std::string fact(const std::string& name, const std::string& html) {
  if (html.empty()) return "";
  return "<div><dt>" + escape(name) + "</dt><dd>" + html + "</dd></div>\n";
}

std::string fact_of(const Json& report, const char* name, const char* key) {
  return fact(name, escape(text(report, key)));
}

std::string budget_text(const Json& report) {
  const auto bytes = number(report, "budget_bytes");
  if (!bytes) return "";
  return *bytes >= 0x1p30 ? short_number(*bytes / 0x1p30) + " GiB"
                          : short_number(*bytes / 0x1p20) + " MiB";
}

std::string header(const Json& report, const std::vector<Plan>& plans) {
  std::string front;
  for (const int i : front_of(plans)) {
    front += "<code>" + escape(plans[static_cast<std::size_t>(i)].name) + "</code> ";
  }
  return "<header>\n<h1>KV cache evaluation</h1>\n<dl>\n" + fact_of(report, "model", "model") +
         fact_of(report, "captured K, V, Q", "kv") + fact_of(report, "baseline", "baseline") +
         fact("plans", std::to_string(plans.size())) + fact("budget", budget_text(report)) +
         fact_of(report, "chunk", "chunk_size") + fact_of(report, "instruction set", "isa") +
         fact_of(report, "threads", "threads") + fact_of(report, "date", "date") +
         fact_of(report, "kvcodec", "version") + fact("Pareto front", front) + "</dl>\n</header>\n";
}

}  // namespace

std::string to_page(const Json& report, const std::vector<Plan>& plans,
                    const std::vector<Section>& sections) {
  std::string subject = text(report, "model").empty() ? text(report, "kv") : text(report, "model");
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n" +
      element("title", "KV cache evaluation" + (subject.empty() ? "" : ": " + subject)) +
      "<style>\n" + kPageCss + kPlotCss + "</style>\n</head>\n<body>\n" + header(report, plans) +
      "<nav aria-label=\"Sections\">\n";
  for (const Section& section : sections) {
    html += "<a href=\"#" + section.id + "\">" + escape(section.heading) + "</a>\n";
  }
  html += "</nav>\n<main>\n";
  for (const Section& section : sections) html += to_html(section);
  return html +
         "</main>\n<footer>All numbers are from one run of kvcodec eval. Point at a mark to read "
         "its "
         "values.</footer>\n<script>\n" +
         kPageJs + "</script>\n</body>\n</html>\n";
}

}  // namespace kvcodec::report
