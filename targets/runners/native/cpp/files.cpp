#include "files.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

namespace runner {

File open_file(const std::string& path, Exit code) {
    struct stat info;
    File file(fopen(path.c_str(), "rb"));
    if (!file) throw Failure{code, path + ": " + strerror(errno)};
    if (fstat(fileno(file.get()), &info) != 0 || !S_ISREG(info.st_mode))
        throw Failure{code, path + ": not a file"};
    return file;
}

size_t size_of(const File& file) {
    struct stat info = {};
    fstat(fileno(file.get()), &info);
    return static_cast<size_t>(info.st_size);
}

std::string read_file(const std::string& path, Exit code) {
    const File file = open_file(path, code);
    std::string bytes(size_of(file), '\0');
    if (fread(&bytes[0], 1, bytes.size(), file.get()) != bytes.size())
        throw Failure{code, path + ": cannot be read, or it grew shorter meanwhile"};
    return bytes;
}

}  // namespace runner
