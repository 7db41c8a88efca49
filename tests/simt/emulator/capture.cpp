// Stand-in for stream capture and graphs. A graph is the list of what its stream was told, arguments
// copied; launching it does all of that again, in that order. Streams that join a capture by events,
// nodes added by hand and updates of instances are not emulated.
#include "tests/simt/emulator/capture.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

using Work = std::vector<std::function<cudaError_t()>>;

struct Capture {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool spoilt = false;
  Work work;
};
std::map<cudaStream_t, Capture>& captures() {
  static std::map<cudaStream_t, Capture> value;
  return value;
}

/// Graphs and their instances alike.
std::set<const void*>& live_graphs() {
  static std::set<const void*> value;
  return value;
}
Work* graph_of(const void* handle) {
  if (!live_graphs().contains(handle)) return nullptr;
  return static_cast<Work*>(const_cast<void*>(handle));
}
void* make_graph(Work work) {
  void* handle = new Work(std::move(work));
  live_graphs().insert(handle);
  return handle;
}
cudaError_t destroy_graph(const void* handle) {
  if (live_graphs().erase(handle) == 0) return cudaErrorInvalidValue;
  delete static_cast<const Work*>(handle);
  return cudaSuccess;
}

/// Spoils the captures that `forbids` says; `status` if there are any.
template <class F>
cudaError_t spoil_where(const F& forbids, cudaError_t status) {
  bool any = false;
  for (auto& [stream, capture] : captures()) {
    if (!forbids(stream, capture)) continue;
    capture.spoilt = true;
    any = true;
  }
  return any ? status : cudaSuccess;
}

/// The legacy stream waits for blocking streams, which cannot be while one of them captures.
cudaError_t check_legacy(cudaStream_t stream) {
  if (!is_legacy(stream)) return cudaSuccess;
  return spoil_where([](cudaStream_t other, const Capture&) { return is_blocking(other); },
                     cudaErrorStreamCaptureImplicit);
}

cudaError_t begin(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (is_legacy(stream)) return cudaErrorStreamCaptureUnsupported;
  if (captures().contains(stream)) return cudaErrorIllegalState;
  captures()[stream].mode = mode;
  return cudaSuccess;
}

cudaError_t end(cudaStream_t stream, cudaGraph_t* graph) {
  if (graph == nullptr) return cudaErrorInvalidValue;
  *graph = nullptr;
  const auto it = captures().find(stream);
  if (it == captures().end()) return cudaErrorIllegalState;
  const Capture capture = std::move(it->second);
  captures().erase(it);
  if (capture.spoilt) return cudaErrorStreamCaptureInvalidated;
  *graph = static_cast<cudaGraph_t>(make_graph(capture.work));
  return cudaSuccess;
}

cudaError_t launch_graph(const Work& work) {
  for (const auto& step : work) {
    if (const cudaError_t status = step(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t instantiate(cudaGraphExec_t* instance, cudaGraph_t graph) {
  const Work* work = graph_of(graph);
  if (instance == nullptr || work == nullptr) return cudaErrorInvalidValue;
  *instance = static_cast<cudaGraphExec_t>(make_graph(*work));
  return cudaSuccess;
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (!is_stream(stream)) return set_last_error(cudaErrorInvalidResourceHandle);
  const auto it = captures().find(stream);
  if (it == captures().end()) {
    const cudaError_t status = check_legacy(stream);
    return status == cudaSuccess ? work() : set_last_error(status);
  }
  if (it->second.spoilt) return set_last_error(cudaErrorStreamCaptureInvalidated);
  it->second.work.push_back(std::move(work));
  return cudaSuccess;
}

cudaError_t check_unsafe_call(bool always) {
  return spoil_where(
      [always](cudaStream_t, const Capture& capture) {
        return always || capture.mode != cudaStreamCaptureModeRelaxed;
      },
      cudaErrorStreamCaptureUnsupported);
}

cudaError_t check_host_waits(cudaStream_t stream) {
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t status = check_legacy(stream); status != cudaSuccess) return status;
  return spoil_where([stream](cudaStream_t other, const Capture&) { return other == stream; },
                     cudaErrorStreamCaptureUnsupported);
}

}  // namespace kvcodec::simt

namespace simt = kvcodec::simt;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return simt::set_last_error(simt::begin(stream, mode));
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return simt::set_last_error(simt::end(stream, graph));
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (!simt::is_stream(stream)) return simt::set_last_error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t legacy = simt::check_legacy(stream); legacy != cudaSuccess) {
    return simt::set_last_error(legacy);
  }
  const auto it = simt::captures().find(stream);
  *status = it == simt::captures().end() ? cudaStreamCaptureStatusNone
            : it->second.spoilt          ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* instance, cudaGraph_t graph, unsigned long long) {
  return simt::set_last_error(simt::instantiate(instance, graph));
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* instance, cudaGraph_t graph,
                                          unsigned long long) {
  return simt::set_last_error(simt::instantiate(instance, graph));
}
/// Counts the nodes; lists none of them.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* n) {
  const simt::Work* work = simt::graph_of(graph);
  if (work == nullptr || nodes != nullptr || n == nullptr) {
    return simt::set_last_error(cudaErrorInvalidValue);
  }
  *n = work->size();
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t instance, cudaStream_t stream) {
  const simt::Work* work = simt::graph_of(instance);
  if (work == nullptr) return simt::set_last_error(cudaErrorInvalidValue);
  return simt::enqueue(stream,
                       [steps = *work] { return simt::set_last_error(simt::launch_graph(steps)); });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t instance) {
  return simt::set_last_error(simt::destroy_graph(instance));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return simt::set_last_error(simt::destroy_graph(graph));
}

}  // extern "C"
