// What came out of a network: is it finite, does it stay the same, what is it.
#pragma once

#include <string>
#include <vector>

#include "network.h"

namespace runner {

// One output of the first inference.
struct Output {
    std::string name;
    std::vector<int> shape;
    std::vector<float> values;
    std::string file;  // its dump inside the folder, empty without one
};

std::vector<Output> outputs_of(const Network& network, const std::vector<ncnn::Mat>& mats);

// Write each as raw float32 to `folder`/<number>-<name>.bin, atomically. `first` is the number of
// the first. Throws Failure with Exit::output.
void dump(std::vector<Output>& outputs, const std::string& folder, size_t first);

// The JSON of the outputs; `last` are those of the last inference.
std::string outputs_json(const std::vector<Output>& first, const std::vector<Output>& last);

}  // namespace runner
