#include "outputs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "failure.h"
#include "json.h"

namespace runner {
namespace {

std::string file_name(size_t number, const std::string& name) {
    std::string safe;
    for (char letter : name) {
        const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                           (letter >= '0' && letter <= '9') || letter == '_' || letter == '-';
        safe += plain ? letter : '_';
    }
    return std::to_string(number) + "-" + safe.substr(0, 64) + ".bin";
}

void write_file(const std::string& path, const std::vector<float>& values) {
    const std::string part = path + ".part";
    FILE* file = fopen(part.c_str(), "wb");
    bool good = file != nullptr;
    if (file) {
        good = fwrite(values.data(), sizeof(float), values.size(), file) == values.size();
        good = fclose(file) == 0 && good;
    }
    if (good && rename(part.c_str(), path.c_str()) == 0) return;
    const std::string reason = strerror(errno);
    unlink(part.c_str());
    throw Failure{Exit::output, path + ": " + reason};
}

}  // namespace

std::vector<Output> outputs_of(const Network& network, const std::vector<ncnn::Mat>& mats) {
    std::vector<Output> outputs;
    for (size_t i = 0; i < mats.size(); i++)
        outputs.push_back({network.output_names()[i], shape_of(mats[i]), values_of(mats[i]), ""});
    return outputs;
}

void dump(std::vector<Output>& outputs, const std::string& folder, size_t first) {
    if (mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST)
        throw Failure{Exit::output, folder + ": " + strerror(errno)};
    for (size_t i = 0; i < outputs.size(); i++) {
        outputs[i].file = file_name(first + i, outputs[i].name);
        write_file(folder + "/" + outputs[i].file, outputs[i].values);
    }
}

std::string outputs_json(const std::vector<Output>& first, const std::vector<Output>& last) {
    std::vector<std::string> items;
    for (size_t i = 0; i < first.size(); i++) {
        const std::vector<float>&a = first[i].values, &b = last[i].values;
        JsonObject item;
        item.add("name", first[i].name).add("shape", first[i].shape);
        item.add("non_finite", std::max(count_non_finite(a), count_non_finite(b)));
        // Bit by bit: NaN would differ from itself.
        item.add("same_in_last", a.size() == b.size() &&
                                     memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
        item.raw("file", first[i].file.empty() ? "null" : json(first[i].file));
        items.push_back(item.text());
    }
    return json_list(items);
}

}  // namespace runner
