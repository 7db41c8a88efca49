// Plots as SVG text: axes with round ticks, lines, marks, bars, heat maps, legends.
//
// A drawing has no ids, no scripts and no references, so any number of them fit into one page, and
// every text in it is escaped. Colours are classes of plot.css; a mark of the data has the class
// `mark` and its values in a <title>, which viewers show as a tooltip.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "src/report/axis.hpp"

namespace kvcodec::report {

/// A point of the data and what its tooltip says.
struct Mark {
  double x = 0.0;
  double y = 0.0;
  std::string tip;
};

/// What a plot became.
struct Drawing {
  std::string id;       ///< of letters, digits and dashes; names the file
  std::string title;    ///< unescaped
  std::string caption;  ///< unescaped
  std::string body;     ///< elements, without the <svg> around them
  int width = 0, height = 0;
  int n_marks = 0;  ///< elements of class `mark`
};

/// The <svg> element. `style` is CSS to carry along, for a file of its own.
std::string to_svg(const Drawing& drawing, const std::string& style = "");

enum class Fill { solid, hollow };

/// The series number of what belongs to no series: drawn in the colour of the text.
inline constexpr int kNeutral = -1;

/// A plot in the making. A series goes by its number: 42 in a row differ in colour or shape of mark.
/// Add things in the order in which they cover each other.
class Plot {
 public:
  struct Size {
    int width = 420;
    int height = 230;  ///< of the area between the axes
    int left = 0;      ///< room for ticks and label of y; 0: as much as they need
    int right = 16;
    int inset = 10;  ///< between the frame and the ends of continuous axes
  };

  Plot(std::string id, std::string title, Axis x, Axis y, Size size);
  Plot(std::string id, std::string title, Axis x, Axis y)
      : Plot(std::move(id), std::move(title), std::move(x), std::move(y), Size()) {}

  /// Straight lines through the points.
  void line(int style, const std::vector<Mark>& points, bool dashed = false);
  void marks(int style, const std::vector<Mark>& points, Fill fill = Fill::solid);
  /// A bar from 0 up to y around each point, `width` wide in units of x.
  void bars(int style, const std::vector<Mark>& points, double width);
  /// Names (tip) beside the points of a line, where there is room: over no other name, not over the
  /// line, and over no point of `around`.
  void names(const std::vector<Mark>& points, const std::vector<Mark>& around);
  /// An entry of the legend, which wraps below the plot.
  void key(int style, const std::string& name, bool lined, Fill fill = Fill::solid,
           bool dashed = false, bool marked = true);
  /// Whether `text` has room in a cell of two `fields` axes.
  bool fits_cell(const std::string& text) const;
  /// The cell of two `fields` axes. `colour` is "#rrggbb"; `text` may be empty.
  void cell(const Mark& at, const std::string& colour, const std::string& text);
  /// A frame around a cell.
  void outline(double x, double y);
  /// The colours between two ends, right of the plot; needs size.right of at least 80.
  void colour_bar(const std::string& label, const Axis& values);

  Drawing finish(std::string caption);

 private:
  double px(double x) const;
  double py(double y) const;
  double cell_width() const;
  double cell_height() const;
  void draw_axes();

  Drawing drawing_;
  Axis x_, y_;
  Size size_;
  double key_x_ = 0.0;
  int key_row_ = 0;
  std::string keys_;
};

/// Colour of a heat map at 0..1: dark blue to yellow, even in lightness, so that it reads without
/// red and green and in grey.
std::string heat_colour(double share);

}  // namespace kvcodec::report
