// A network on ncnn: loading, feeding, running.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "net.h"
#include "options.h"

namespace runner {

// The inputs of one inference, in the order of the network's `inputs`.
using Feeds = std::vector<ncnn::Mat>;

class Network {
public:
    // Throws Failure with Exit::load, or Exit::input where a name is not the network's.
    Network(const NetworkFiles& files, const Options& options);

    // Outputs in the order of `output_names`, float32; throws Failure with Exit::inference.
    void run(const Feeds& feeds, std::vector<ncnn::Mat>& outputs) const;

    const std::vector<std::string>& output_names() const { return output_names_; }
    int64_t load_ns() const { return load_ns_; }

private:
    void load(const NetworkFiles& files);
    void find_blobs(const NetworkFiles& files);

    ncnn::Net net_;
    std::vector<int> inputs_;
    std::vector<int> outputs_;
    std::vector<std::string> output_names_;
    int64_t load_ns_ = 0;
};

// What ncnn computes in on this CPU when asked for a precision.
const char* computes_in(Precision precision);

// Throws Failure with Exit::load unless the .param file has all of its lines: ncnn reads a text that
// breaks off as if it went on with what comes next.
void check_param(const std::string& path);

// The file's values as a Mat; throws Failure with Exit::input where size and shape do not agree.
ncnn::Mat read_input(const TensorFile& input);

// Shape with a leading batch of 1, and the values in that order.
std::vector<int> shape_of(const ncnn::Mat& mat);
std::vector<float> values_of(const ncnn::Mat& mat);

// NaN and infinities, told from the bits.
int64_t count_non_finite(const std::vector<float>& values);

}  // namespace runner
