// A random model in a folder of its own, made once per suite.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "examples/llama/model.hpp"
#include "tests/llama/random_model.hpp"

namespace kvcodec::eval {

class RandomModel : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder() =
        std::filesystem::temp_directory_path() / ("kvcodec-eval-" + std::to_string(::getpid()));
    llama::testing::write_random_model(folder(), llama::testing::small_config(), 7);
    pointer() = std::make_unique<llama::Model>(llama::Model::load(folder()));
  }
  static void TearDownTestSuite() {
    pointer().reset();
    std::filesystem::remove_all(folder());
  }

  static std::filesystem::path& folder() {
    static std::filesystem::path path;
    return path;
  }
  static const llama::Model& model() { return *pointer(); }

  static std::vector<std::int32_t> tokens(int n, int step) {
    std::vector<std::int32_t> out;
    for (int i = 0; i < n; ++i) out.push_back((i * i * step + i) % 256);
    return out;
  }

 private:
  static std::unique_ptr<llama::Model>& pointer() {
    static std::unique_ptr<llama::Model> model;
    return model;
  }
};

}  // namespace kvcodec::eval
