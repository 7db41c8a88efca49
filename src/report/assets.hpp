// The files of this folder that go into the page and the plots, as text.
#pragma once

namespace kvcodec::report {

extern const char* const kPlotCss;
extern const char* const kPageCss;
extern const char* const kPageJs;

}  // namespace kvcodec::report
