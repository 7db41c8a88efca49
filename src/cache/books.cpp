#include "src/cache/books.hpp"

#include <bit>

namespace kvcodec {

Books::Books(const LayerInfo& layer, Side side) {
  const Codebook* book = layer.book(side);
  if (book == nullptr) return;
  const int n = book->scope == CodebookScope::layer ? 1 : layer.shape.n_kv_heads;
  for (int i = 0; i < n; ++i) {
    tables_.push_back(std::make_shared<CodebookTable>(book->make_table(layer.shape.head_dim)));
  }
}

std::int64_t Books::bytes() const noexcept {
  std::int64_t n = 0;
  for (const auto& table : tables_) n += table->bytes();
  return n;
}

double Books::bytes_shared() const noexcept {
  double n = 0.0;
  for (const auto& table : tables_) {
    n += static_cast<double>(table->bytes()) / static_cast<double>(table.use_count());
  }
  return n;
}

BookCodes Books::cover(const LayerInfo& layer, Side side, const StagedRows& staged,
                       const std::vector<std::int64_t>& n_rows) {
  const auto head_dim = static_cast<std::size_t>(layer.shape.head_dim);
  const DType type = layer.raw_dtype(side);
  const unsigned group = layer.group_mask();
  BookCodes codes;
  std::vector<float> x;
  std::vector<std::int32_t> weights;
  const auto cover_pending = [&](std::size_t table) {
    if (weights.empty()) return;
    auto& own = tables_[table];
    // Others that share the table must not see it grow.
    const bool shared = own.use_count() > 1;
    const auto grown = shared ? std::make_shared<CodebookTable>(*own) : own;
    const std::size_t first = codes.index.size();
    codes.index.resize(first + weights.size());
    codes.magnitude.resize(first + weights.size());
    grown->cover(static_cast<std::int64_t>(weights.size()), x.data(), weights.data(),
                 codes.index.data() + first, codes.magnitude.data() + first);
    if (grown->n_entries() != own->n_entries()) own = grown;
    x.clear();
    weights.clear();
  };
  for (std::size_t head = 0; head < n_rows.size(); ++head) {
    const auto h = static_cast<std::int64_t>(head);
    for (std::int64_t row = 0; row < n_rows[head]; ++row) {
      x.resize(x.size() + head_dim);
      float* to = x.data() + x.size() - head_dim;
      load_clamped(type, staged.rows().at(side, h, row), layer.shape.head_dim, dtype_max(type), to);
      // Keys are alike before position encoding.
      if (side == Side::key && layer.rope != nullptr) layer.rope->unrotate(staged.pos(h)[row], to);
      weights.push_back(std::popcount(staged.mask(h)[row] & group));
    }
    if (tables_.size() > 1) cover_pending(head);
  }
  if (tables_.size() == 1) cover_pending(0);
  return codes;
}

}  // namespace kvcodec
