# ---- THE LIST of CUDA sources, relative to cuda/: add a new file here, in alphabetical order. ----
# nvcc compiles them for kvcodec::cuda, the host compiler for the emulator (tests/simt/).
set(kvcodec_cuda_sources
)
# --------------------------------------------------------------------------------------------------
