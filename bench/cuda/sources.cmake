# Sources of the device benchmark, relative to bench/cuda/.
set(device_bench_sources
  cases.cpp
  device_bench.cpp
  device_tools.cu
  evict_case.cpp
  report.cpp
)
