#include "src/report/svg.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

constexpr int kColours = 7;  // .s0 to .s6 in plot.css; no common factor with the shapes
constexpr int kShapes = 6;
constexpr int kTop = 36;             // height of the title
constexpr int kBelow = 54;           // of tick texts and the label of x
constexpr int kKeyRow = 20;          // of a row of the legend
constexpr double kLetter = 7;        // width of a letter, on the safe side
constexpr double kBoldLetter = 9.5;  // of a title

std::string px_text(double pixels) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", pixels);
  return text;
}

double text_width(const std::string& text) {
  return kLetter * static_cast<double>(n_characters(text));
}

std::string text_element(double x, double y, const char* attributes, const std::string& text) {
  return "<text x=\"" + px_text(x) + "\" y=\"" + px_text(y) + "\" " + attributes + ">" +
         escape(text) + "</text>\n";
}

std::string line_element(const char* name, double x1, double y1, double x2, double y2) {
  return "<path class=\"" + std::string(name) + "\" d=\"M" + px_text(x1) + " " + px_text(y1) + "L" +
         px_text(x2) + " " + px_text(y2) + "\"/>\n";
}

std::string rect_element(const std::string& attributes, double x, double y, double w, double h,
                         const std::string& inside = "") {
  return "<rect " + attributes + " x=\"" + px_text(x) + "\" y=\"" + px_text(y) + "\" width=\"" +
         px_text(w) + "\" height=\"" + px_text(h) + "\"" +
         (inside.empty() ? "/>\n" : ">" + inside + "</rect>\n");
}

std::string tip_element(const std::string& tip) { return "<title>" + escape(tip) + "</title>"; }

std::string colour_class(int style) {
  return style == kNeutral ? "neutral" : "s" + std::to_string(style % kColours);
}

// Path of a mark: circle, square, triangle, diamond, triangle on its tip, cross.
std::string shape_path(int style, double x, double y) {
  const auto corners = [&](std::initializer_list<std::pair<double, double>> offsets) {
    std::string path;
    for (const auto& [dx, dy] : offsets) {
      path += (path.empty() ? "M" : "L") + px_text(x + dx) + " " + px_text(y + dy);
    }
    return path + "Z";
  };
  switch (std::max(style, 0) % kShapes) {
    case 0:
      return "M" + px_text(x - 4.5) + " " + px_text(y) + "a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z";
    case 1: return corners({{-4, -4}, {4, -4}, {4, 4}, {-4, 4}});
    case 2: return corners({{0, -5.5}, {5.2, 4}, {-5.2, 4}});
    case 3: return corners({{0, -5.8}, {5.8, 0}, {0, 5.8}, {-5.8, 0}});
    case 4: return corners({{0, 5.5}, {5.2, -4}, {-5.2, -4}});
    default:
      return corners({{-2, -5},
                      {2, -5},
                      {2, -2},
                      {5, -2},
                      {5, 2},
                      {2, 2},
                      {2, 5},
                      {-2, 5},
                      {-2, 2},
                      {-5, 2},
                      {-5, -2},
                      {-2, -2}});
  }
}

std::string mark_classes(bool of_data, Fill fill) {
  return std::string(of_data ? "mark shape" : "shape") + (fill == Fill::hollow ? " hollow" : "");
}

}  // namespace

std::string to_svg(const Drawing& d, const std::string& style) {
  const std::string w = std::to_string(d.width);
  const std::string h = std::to_string(d.height);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"kvcodec-plot\" data-plot=\"" +
         escape(d.id) + "\" viewBox=\"0 0 " + w + " " + h + "\" width=\"" + w + "\" height=\"" + h +
         "\" role=\"img\" aria-label=\"" + escape(d.title) + "\">\n" +
         (style.empty() ? "" : "<style>" + style + "</style>\n") + d.body + "</svg>\n";
}

Plot::Plot(std::string id, std::string title, Axis x, Axis y, Size size)
    : x_(std::move(x)), y_(std::move(y)), size_(size) {
  drawing_.id = std::move(id);
  drawing_.title = std::move(title);
  drawing_.width = size.width;
  if (size_.left == 0) {
    double widest = 0;
    for (const Axis::Tick& tick : y_.ticks()) widest = std::max(widest, text_width(tick.text));
    size_.left = 32 + static_cast<int>(widest);
  }
  draw_axes();
}

double Plot::px(double x) const {
  const double inset = x_.n_fields() > 0 ? 0 : size_.inset;
  return size_.left + inset + x_.place(x) * (size_.width - size_.left - size_.right - 2 * inset);
}

double Plot::py(double y) const {
  const double inset = y_.n_fields() > 0 ? 0 : size_.inset;
  return kTop + size_.height - inset - y_.place(y) * (size_.height - 2 * inset);
}

void Plot::draw_axes() {
  const double right = size_.width - size_.right;
  const double bottom = kTop + size_.height;
  const auto fits = static_cast<std::size_t>((size_.width - 16) / kBoldLetter);
  std::string& body = drawing_.body;
  body += text_element(8, 20, "class=\"title\"", shortened(drawing_.title, fits));
  const double ix = x_.n_fields() > 0 ? 0 : size_.inset;
  const double iy = y_.n_fields() > 0 ? 0 : size_.inset;
  double free_from = 0;  // texts of ticks must not touch
  for (const Axis::Tick& tick : x_.ticks()) {
    const double x = size_.left + ix + tick.place * (right - size_.left - 2 * ix);
    if (x_.n_fields() == 0) body += line_element("grid", x, kTop, x, bottom);
    const double half = text_width(tick.text) / 2;
    if (x - half < free_from) continue;
    free_from = x + half + 6;
    body += text_element(x, bottom + 17, "text-anchor=\"middle\"", tick.text);
  }
  for (const Axis::Tick& tick : y_.ticks()) {
    const double y = bottom - iy - tick.place * (size_.height - 2 * iy);
    if (y_.n_fields() == 0) body += line_element("grid", size_.left, y, right, y);
    body += text_element(size_.left - 7, y + 4, "text-anchor=\"end\"", tick.text);
  }
  body += text_element((size_.left + right) / 2, bottom + 38, "text-anchor=\"middle\"", x_.label());
  const double middle = kTop + size_.height / 2.0;
  const std::string turned =
      "text-anchor=\"middle\" transform=\"rotate(-90 14 " + px_text(middle) + ")\"";
  body += text_element(14, middle, turned.c_str(), y_.label());
  body += rect_element("class=\"frame\"", size_.left, kTop, right - size_.left, size_.height);
}

void Plot::line(int style, const std::vector<Mark>& points, bool dashed) {
  std::string path;
  for (const Mark& p : points) {
    path += (path.empty() ? "M" : "L") + px_text(px(p.x)) + " " + px_text(py(p.y));
  }
  drawing_.body += "<path class=\"line " + colour_class(style) + (dashed ? " dashed" : "") +
                   "\" d=\"" + path + "\"/>\n";
}

void Plot::marks(int style, const std::vector<Mark>& points, Fill fill) {
  drawing_.body += "<g class=\"" + colour_class(style) + "\">\n";
  for (const Mark& p : points) {
    drawing_.body += "<path class=\"" + mark_classes(true, fill) + "\" d=\"" +
                     shape_path(style, px(p.x), py(p.y)) + "\">" + tip_element(p.tip) + "</path>\n";
    ++drawing_.n_marks;
  }
  drawing_.body += "</g>\n";
}

void Plot::bars(int style, const std::vector<Mark>& points, double width) {
  drawing_.body += "<g class=\"bars " + colour_class(style) + "\">\n";
  for (const Mark& p : points) {
    const double left = px(p.x - width / 2);
    const double top = py(p.y);
    drawing_.body += rect_element("class=\"mark bar\"", left, top, px(p.x + width / 2) - left,
                                  py(0) - top, tip_element(p.tip));
    ++drawing_.n_marks;
  }
  drawing_.body += "</g>\n";
}

void Plot::names(const std::vector<Mark>& points, const std::vector<Mark>& around) {
  struct Area {
    double left, top, right, bottom;
  };
  std::vector<Area> taken;
  for (const Mark& p : around) {
    taken.push_back({px(p.x) - 6, py(p.y) - 6, px(p.x) + 6, py(p.y) + 6});
  }
  for (std::size_t i = 1; i < points.size(); ++i) {
    constexpr int kSteps = 32;
    for (int k = 0; k < kSteps; ++k) {
      const double t = static_cast<double>(k) / kSteps;
      const double x = std::lerp(px(points[i - 1].x), px(points[i].x), t);
      const double y = std::lerp(py(points[i - 1].y), py(points[i].y), t);
      taken.push_back({x - 1, y - 1, x + 1, y + 1});
    }
  }
  for (const Mark& p : points) {
    const std::string text = shortened(p.tip, 20);
    const double w = text_width(text) * 1.12;  // bold
    const double x = px(p.x);
    const double y = py(p.y);
    const std::array<std::pair<double, double>, 12> corners = {{{x + 9, y - 6},
                                                                {x - w / 2, y - 21},
                                                                {x - 9 - w, y - 6},
                                                                {x - w / 2, y + 8},
                                                                {x + 10, y - 16},
                                                                {x - w - 10, y - 16},
                                                                {x + 10, y + 3},
                                                                {x - w - 10, y + 3},
                                                                {x - 4, y - 21},
                                                                {x - 4, y + 9},
                                                                {x + 4 - w, y - 21},
                                                                {x + 4 - w, y + 9}}};
    for (const auto& [left, top] : corners) {
      const Area area{left, top, left + w, top + 13};
      const bool inside = left >= size_.left && area.right <= size_.width - size_.right &&
                          top >= kTop && area.bottom <= kTop + size_.height;
      const bool free = std::none_of(taken.begin(), taken.end(), [&](const Area& a) {
        return a.left < area.right && area.left < a.right && a.top < area.bottom &&
               area.top < a.bottom;
      });
      if (!inside || !free) continue;
      taken.push_back(area);
      drawing_.body += text_element(left, top + 11, "class=\"name\"", text);
      break;
    }
  }
}

void Plot::key(int style, const std::string& name, bool lined, Fill fill, bool dashed,
               bool marked) {
  const std::string text = shortened(name, 44);
  const double needs = 38 + text_width(text);
  if (key_x_ > 0 && key_x_ + needs > size_.width - 8) {
    key_x_ = 0;
    ++key_row_;
  }
  const double x = 12 + key_x_;
  const double y = kTop + size_.height + kBelow + kKeyRow * key_row_ + 8;
  keys_ += "<g class=\"" + colour_class(style) + "\">";
  if (lined) keys_ += line_element(dashed ? "line dashed" : "line", x, y, x + 20, y);
  if (marked) {
    keys_ += "<path class=\"" + mark_classes(false, fill) + "\" d=\"" +
             shape_path(style, x + 10, y) + "\"/>";
  }
  keys_ += "</g>" + text_element(x + 26, y + 4, "class=\"key\"", text);
  key_x_ += needs + 8;
}

bool Plot::fits_cell(const std::string& text) const {
  return text_width(text) + 6 < cell_width() && cell_height() > 14;
}

double Plot::cell_width() const {
  return static_cast<double>(size_.width - size_.left - size_.right) / x_.n_fields();
}

double Plot::cell_height() const { return static_cast<double>(size_.height) / y_.n_fields(); }

void Plot::cell(const Mark& at, const std::string& colour, const std::string& text) {
  const double w = cell_width();
  const double h = cell_height();
  const double gap = std::min(w, h) > 12 ? 1 : 0;
  const double x = px(at.x) - w / 2;
  const double y = py(at.y) - h / 2;
  drawing_.body += rect_element("class=\"mark\" fill=\"" + colour + "\"", x, y, w - gap, h - gap,
                                tip_element(at.tip));
  ++drawing_.n_marks;
  if (!text.empty()) {
    const bool dark =
        std::stoi(colour.substr(3, 2), nullptr, 16) < 112;  // by the green of the cell
    const char* attributes = dark ? "class=\"on-dark\" text-anchor=\"middle\""
                                  : "class=\"on-light\" text-anchor=\"middle\"";
    drawing_.body += text_element(x + w / 2, y + h / 2 + 4, attributes, text);
  }
}

void Plot::outline(double x, double y) {
  const double w = cell_width();
  const double h = cell_height();
  for (const char* name : {"class=\"outline-under\"", "class=\"outline\""}) {
    drawing_.body += rect_element(name, px(x) - w / 2 - 1, py(y) - h / 2 - 1, w + 2, h + 2);
  }
}

void Plot::colour_bar(const std::string& label, const Axis& values) {
  constexpr int kSteps = 32;
  const double left = size_.width - size_.right + 12;
  const double step = static_cast<double>(size_.height) / kSteps;
  for (int i = 0; i < kSteps; ++i) {
    drawing_.body += rect_element("fill=\"" + heat_colour((i + 0.5) / kSteps) + "\"", left,
                                  kTop + size_.height - (i + 1) * step, 12, step + 0.5);
  }
  for (const Axis::Tick& tick : values.ticks()) {
    const double y = kTop + size_.height * (1 - tick.place) + 4;
    drawing_.body += text_element(left + 17, y, "class=\"bar-tick\"", tick.text);
  }
  const double middle = kTop + size_.height / 2.0;
  const double x = size_.width - 6;
  const std::string turned =
      "text-anchor=\"middle\" transform=\"rotate(-90 " + px_text(x) + " " + px_text(middle) + ")\"";
  drawing_.body += text_element(x, middle, turned.c_str(), label);
}

Drawing Plot::finish(std::string caption) {
  const int legend = keys_.empty() ? 0 : kKeyRow * (key_row_ + 1) + 4;
  drawing_.height = kTop + size_.height + kBelow + legend;
  drawing_.body =
      "<rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n" + drawing_.body + keys_;
  drawing_.caption = std::move(caption);
  return drawing_;
}

std::string heat_colour(double share) {
  using Colour = std::array<double, 3>;
  static constexpr std::array<Colour, 5> kStops = {
      {{18, 34, 84}, {58, 82, 130}, {122, 132, 134}, {190, 174, 96}, {255, 228, 92}}};
  const double at = std::clamp(share, 0.0, 1.0) * (kStops.size() - 1);
  const auto i = std::min<std::size_t>(static_cast<std::size_t>(at), kStops.size() - 2);
  std::array<int, 3> rgb{};
  for (std::size_t c = 0; c < 3; ++c) {
    rgb[c] = static_cast<int>(
        std::lround(std::lerp(kStops[i][c], kStops[i + 1][c], at - static_cast<double>(i))));
  }
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", static_cast<unsigned>(rgb[0]) & 255u,
                static_cast<unsigned>(rgb[1]) & 255u, static_cast<unsigned>(rgb[2]) & 255u);
  return text;
}

}  // namespace kvcodec::report
