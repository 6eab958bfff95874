// Reading files.
#pragma once

#include <stdio.h>

#include <memory>
#include <string>

#include "failure.h"

namespace runner {

struct CloseFile {
    void operator()(FILE* file) const { fclose(file); }
};
using File = std::unique_ptr<FILE, CloseFile>;

// Throws Failure with `code` where it is no regular file that can be read.
File open_file(const std::string& path, Exit code);
size_t size_of(const File& file);
// All that it holds; throws Failure with `code`.
std::string read_file(const std::string& path, Exit code);

}  // namespace runner
