// Attention of another library as a participant; only built where one is named (README.md).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "src/bench/pages.hpp"
#include "src/bench/participant.hpp"

namespace kvcodec::bench {

/// What the peer can be measured with: "<peer> <type of its cache>[ mul_mat]".
std::vector<std::string> peer_formats();

/// One of peer_formats() in a shape with one sequence; at least rotated_bytes of caches take turns. q
/// [n_q_heads, head_dim]. Throws error if the peer cannot allocate.
std::unique_ptr<Participant> make_peer(const std::string& format, const Shape& shape,
                                       const UniqueRows& rows, const std::vector<float>& q,
                                       std::size_t rotated_bytes);

}  // namespace kvcodec::bench
