# ---- THE LIST of CUDA sources, relative to cuda/: add a new file here, in alphabetical order. ----
# nvcc compiles them for kvcodec::cuda, the host compiler for the emulator (tests/simt/).
set(kvcodec_cuda_sources
  attend/attend.cu
  attend/instances/byte_byte.cu
  attend/instances/byte_table4.cu
  attend/instances/e4m3_e4m3.cu
  attend/instances/f16_f16.cu
  attend/instances/table1_table2.cu
  attend/instances/table1_table4.cu
  attend/instances/table2_table2.cu
  attend/instances/table4_table4.cu
  codec/append.cu
  codec/decode.cu
  codec/device_window.cu
  codec/encode.cu
  codec/slice_0.cu
  codec/slice_1.cu
  codec/slice_2.cu
  codec/slice_3.cu
  core/device.cu
  core/host_view.cu
  core/memory.cu
  core/view.cu
)
# --------------------------------------------------------------------------------------------------
