# ---- THE LIST of CUDA sources, relative to cuda/: add a new file here, in alphabetical order. ----
# nvcc compiles them for kvcodec::cuda, the host compiler for the emulator (tests/simt/).
set(kvcodec_cuda_sources
  codec/decode.cu
  codec/encode.cu
  codec/slice_0.cu
  codec/slice_1.cu
  codec/slice_2.cu
  codec/slice_3.cu
  core/device.cu
  core/memory.cu
  core/view.cu
)
# --------------------------------------------------------------------------------------------------
