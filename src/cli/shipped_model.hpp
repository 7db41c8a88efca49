// Where the models are that come with the library.
#pragma once

#include <filesystem>
#include <string>

namespace kvcodec::cli {

/// Folder of a shipped model ("tiny-llama"): beside the installed command, or in the tree it was built
/// from. Throws invalid_argument naming the places that were tried.
std::filesystem::path shipped_model(const std::string& name);

}  // namespace kvcodec::cli
