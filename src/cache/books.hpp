// The codebooks of one side of a layer of a sequence, and the codes of rows on their way into pages.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "src/cache/layer_info.hpp"
#include "src/cache/raw_store.hpp"

namespace kvcodec {

/// Index and magnitude per row, heads one after the other.
struct BookCodes {
  std::vector<std::uint32_t> index;
  std::vector<float> magnitude;
};

/// Tables by KV head or one for all. A copy shares them until one of the two grows.
class Books {
 public:
  Books() = default;
  Books(const LayerInfo& layer, Side side);

  bool empty() const noexcept { return tables_.empty(); }
  const CodebookTable& table(std::int64_t head) const noexcept {
    return *tables_[tables_.size() == 1 ? 0 : static_cast<std::size_t>(head)];
  }
  const std::vector<std::shared_ptr<CodebookTable>>& tables() const noexcept { return tables_; }
  std::int64_t bytes() const noexcept;
  /// The same with each table divided among those that share it: over all of them it counts once.
  double bytes_shared() const noexcept;

  /// Codes of the first n_rows[head] staged rows of every head; tables grow. Throws as
  /// CodebookTable::cover.
  BookCodes cover(const LayerInfo& layer, Side side, const StagedRows& staged,
                  const std::vector<std::int64_t>& n_rows);

 private:
  std::vector<std::shared_ptr<CodebookTable>> tables_;
};

}  // namespace kvcodec
