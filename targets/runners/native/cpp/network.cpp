#include "network.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "datareader.h"
#include "device.h"
#include "failure.h"
#include "files.h"

namespace runner {
namespace {

[[noreturn]] void cannot_load(const std::string& path) {
    const std::string reason = library_message();
    throw Failure{Exit::load, path + ": ncnn cannot load it" +
                                  (reason.empty() ? "" : " (" + reason + ")")};
}

std::string listed(const std::vector<const char*>& names) {
    std::string text;
    for (const char* name : names) text += (text.empty() ? "" : ", ") + std::string(name);
    return text;
}

int blob_index(const ncnn::Net& net, const std::string& name) {
    const std::vector<ncnn::Blob>& blobs = net.blobs();
    for (size_t i = 0; i < blobs.size(); i++)
        if (blobs[i].name == name) return static_cast<int>(i);
    return -1;
}

}  // namespace

void check_param(const std::string& path) {
    const File file = open_file(path, Exit::load);
    long magic = 0, layers = 0, blobs = 0, lines = 0;
    if (fscanf(file.get(), "%ld %ld %ld", &magic, &layers, &blobs) != 3 || magic != 7767517)
        throw Failure{Exit::load, path + ": no ncnn .param file"};
    bool blank = true;
    for (int letter; (letter = fgetc(file.get())) != EOF;) {
        if (letter == 0) throw Failure{Exit::load, path + ": no ncnn .param file"};
        if (letter == '\n') {
            lines += blank ? 0 : 1;
            blank = true;
        } else if (letter != ' ' && letter != '\t' && letter != '\r') {
            blank = false;
        }
    }
    lines += blank ? 0 : 1;
    if (lines != layers)
        throw Failure{Exit::load, path + ": announces " + std::to_string(layers) +
                                      " layers and holds " + std::to_string(lines) +
                                      ": it is cut off or damaged"};
}

// What ncnn makes of a precision on this CPU: x86 widens half floats on loading, an ARM core
// without half-precision arithmetic keeps them in memory and computes in floats.
const char* computes_in(Precision precision) {
    const bool half = precision == Precision::fp16 || precision == Precision::fp16_storage;
    if (!half || has_fp16_arithmetic()) return precision_name(precision);
    return precision_name(kIsArm ? Precision::fp16_storage : Precision::fp32);
}

Network::Network(const NetworkFiles& files, const Options& options) {
    const bool storage =
        options.precision == Precision::fp16 || options.precision == Precision::fp16_storage;
    net_.opt.num_threads = options.threads;
    net_.opt.use_vulkan_compute = false;
    net_.opt.use_fp16_packed = storage;
    net_.opt.use_fp16_storage = storage;
    net_.opt.use_fp16_arithmetic = options.precision == Precision::fp16;
    net_.opt.use_bf16_storage = options.precision == Precision::bf16;
    net_.opt.use_bf16_packed = options.precision == Precision::bf16;
    load(files);
    find_blobs(files);
}

void Network::load(const NetworkFiles& files) {
    check_param(files.param);
    const File param = open_file(files.param, Exit::load);
    const File bin = open_file(files.bin, Exit::load);
    const int64_t start = now_ns();
    const ncnn::DataReaderFromStdio param_reader(param.get()), bin_reader(bin.get());
    if (net_.load_param(param_reader) != 0) cannot_load(files.param);
    if (net_.load_model(bin_reader) != 0) cannot_load(files.bin);
    load_ns_ = now_ns() - start;
    if (fgetc(bin.get()) != EOF)
        throw Failure{Exit::load, files.bin + ": holds more weights than " + files.param +
                                      " asks for: the two do not belong together"};
}

void Network::find_blobs(const NetworkFiles& files) {
    const std::vector<const char*>& own = net_.input_names();
    for (const TensorFile& input : files.inputs) {
        const bool known = std::any_of(own.begin(), own.end(),
                                       [&](const char* name) { return input.name == name; });
        if (!known)
            throw Failure{Exit::input, files.param + ": no input '" + input.name +
                                           "'; it has: " + listed(own)};
        inputs_.push_back(blob_index(net_, input.name));
    }
    for (const char* name : own) {
        const bool fed = std::any_of(files.inputs.begin(), files.inputs.end(),
                                     [&](const TensorFile& input) { return input.name == name; });
        if (!fed)
            throw Failure{Exit::input, files.param + ": its input '" + name + "' is not given"};
    }
    output_names_ = files.outputs;
    if (output_names_.empty())
        for (const char* name : net_.output_names()) output_names_.push_back(name);
    for (const std::string& name : output_names_) {
        outputs_.push_back(blob_index(net_, name));
        if (outputs_.back() < 0)
            throw Failure{Exit::input, files.param + ": no output '" + name +
                                           "'; it has: " + listed(net_.output_names())};
    }
}

void Network::run(const Feeds& feeds, std::vector<ncnn::Mat>& outputs) const {
    ncnn::Extractor extractor = net_.create_extractor();
    for (size_t i = 0; i < feeds.size(); i++)
        if (extractor.input(inputs_[i], feeds[i]) != 0)
            throw Failure{Exit::inference, "ncnn refused an input"};
    outputs.resize(outputs_.size());
    for (size_t i = 0; i < outputs_.size(); i++) {
        const int code = extractor.extract(outputs_[i], outputs[i]);
        if (code == 0 && !outputs[i].empty() && outputs[i].elemsize == 4) continue;
        const std::string reason = library_message();
        throw Failure{Exit::inference,
                      "ncnn failed on output '" + output_names_[i] + "' (code " +
                          std::to_string(code) + (reason.empty() ? "" : ", " + reason) +
                          "): is the input of the shape that the network was made for?"};
    }
}

ncnn::Mat read_input(const TensorFile& input) {
    const File file = open_file(input.path, Exit::input);
    // Without the batch: sizes from the outermost to the innermost.
    const std::vector<int> sizes(input.shape.begin() + 1, input.shape.end());
    size_t count = 1;
    for (int size : sizes) count *= static_cast<size_t>(size);
    if (size_of(file) != count * sizeof(float))
        throw Failure{Exit::input, input.path + ": " + std::to_string(size_of(file)) +
                                       " bytes, its shape needs " +
                                       std::to_string(count * sizeof(float))};
    ncnn::Mat mat;
    const size_t n = sizes.size();
    if (n == 1) mat.create(sizes[0]);
    if (n == 2) mat.create(sizes[1], sizes[0]);
    if (n == 3) mat.create(sizes[2], sizes[1], sizes[0]);
    if (n == 4) mat.create(sizes[3], sizes[2], sizes[1], sizes[0]);
    if (mat.empty()) throw Failure{Exit::input, input.path + ": not enough memory for it"};
    const size_t channel = static_cast<size_t>(mat.w) * mat.h * mat.d;
    for (int c = 0; c < mat.c; c++)
        if (fread(mat.channel(c).data, sizeof(float), channel, file.get()) != channel)
            throw Failure{Exit::input, input.path + ": " + strerror(errno)};
    return mat;
}

std::vector<int> shape_of(const ncnn::Mat& mat) {
    if (mat.dims == 1) return {1, mat.w};
    if (mat.dims == 2) return {1, mat.h, mat.w};
    if (mat.dims == 3) return {1, mat.c, mat.h, mat.w};
    return {1, mat.c, mat.d, mat.h, mat.w};
}

std::vector<float> values_of(const ncnn::Mat& mat) {
    std::vector<float> values;
    const size_t channel = static_cast<size_t>(mat.w) * mat.h * mat.d;
    values.reserve(channel * mat.c);
    for (int c = 0; c < mat.c; c++) {
        const float* first = mat.channel(c);
        values.insert(values.end(), first, first + channel);
    }
    return values;
}

int64_t count_non_finite(const std::vector<float>& values) {
    int64_t count = 0;
    for (const float& value : values) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        count += (bits & 0x7f800000u) == 0x7f800000u;
    }
    return count;
}

}  // namespace runner
