# ---- THE LIST of CUDA sources, relative to cuda/: add a new file here, in alphabetical order. ----
# nvcc compiles them for kvcodec::cuda, the host compiler for the emulator (tests/simt/).
set(kvcodec_cuda_sources
  attend/attend.cu
  attend/general/formatted.cu
  attend/general/general.cu
  attend/general/slice_0.cu
  attend/general/slice_1.cu
  attend/general/slice_2.cu
  attend/general/slice_3.cu
  attend/instances/byte_byte.cu
  attend/instances/byte_table4.cu
  attend/instances/e4m3_e4m3.cu
  attend/instances/f16_f16.cu
  attend/instances/table1_table2.cu
  attend/instances/table1_table4.cu
  attend/instances/table2_table2.cu
  attend/instances/table4_table4.cu
  codec/codebook.cu
  codec/codebook_link.cu
  codec/decode.cu
  codec/encode.cu
  codec/slice_0.cu
  codec/slice_1.cu
  codec/slice_2.cu
  codec/slice_3.cu
  core/device.cu
  core/memory.cu
  core/view.cu
  policy/compact.cu
  policy/key_scores.cu
  policy/lag_scores.cu
  policy/observe.cu
  policy/policy.cu
  policy/select.cu
  policy/window_scores.cu
)
# --------------------------------------------------------------------------------------------------
