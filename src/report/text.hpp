// Words and numbers of the report.
#pragma once

#include <string>

namespace kvcodec::report {

/// UTF-8 `text` for XML and HTML, attributes included; control characters become spaces.
std::string escape(const std::string& text);

/// Three significant digits, or all before the point: "0.0123", "12,345", "4.1e-05".
std::string short_number(double value);

/// `decimals` digits after the point and commas between thousands: "1,234.50".
std::string fixed(double value, int decimals);

/// Characters of UTF-8 `text`.
std::size_t n_characters(const std::string& text);

/// UTF-8 `text`, or its first `most - 1` characters and an ellipsis if it has more than `most`.
std::string shortened(const std::string& text, std::size_t most);

}  // namespace kvcodec::report
