// Pose models of edgepose in C++17: crop, letterbox, decoding and non-maximum suppression, with the
// numbers of its Python runtime (edge/image.py, edge/codecs, edge/detector.py, edge/pose.py).
//
// Everything but the last section needs the standard library alone. Say `#define EDGEPOSE_NCNN`
// before the include, with ncnn's headers on the path, for the networks themselves. What cannot be
// used throws edgepose::Error with one line of text. No function keeps state: all of them may be
// called from several threads; a Network may too, from as many as the app cares to wait for.
//
// SPDX-License-Identifier: Apache-2.0
#ifndef EDGEPOSE_HPP
#define EDGEPOSE_HPP

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgepose {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// --- plain values -----------------------------------------------------------------------------

// How the bytes of a pixel lie in memory; an Android Bitmap of ARGB_8888 is rgba.
enum class Pixels { bgr, rgb, rgba };

// An image that somebody else owns; `row_bytes` from one row to the next.
struct Image {
    const uint8_t* data = nullptr;
    int width = 0, height = 0;
    size_t row_bytes = 0;
    Pixels pixels = Pixels::bgr;
};

struct Box {
    float x1 = 0, y1 = 0, x2 = 0, y2 = 0, score = 0;
    int label = 0;
};

struct Keypoint {
    float x = 0, y = 0, score = 0;
};

struct Pose {
    Box box;
    std::vector<Keypoint> keypoints;
};

// Where a network's input lies in the image: image = input * scale + offset.
struct Placement {
    double scale_x = 1, scale_y = 1, offset_x = 0, offset_y = 0;
};

// One output without its batch, (channels, height, width); a (K, bins) one has a single channel.
// `channel_step` floats lie between the first values of two channels.
struct Map {
    const float* data = nullptr;
    int channels = 0, height = 0, width = 0;
    size_t channel_step = 0;
};

// What the runtime must know of a model: the `spec` of its manifest.json, the files beside it, and
// the arithmetic that keeps its answers on ARM (fp32, fp16, fp16-storage, bf16).
struct Spec {
    std::string name, task, codec, arithmetic = "fp32";
    std::string input;
    int input_height = 0, input_width = 0;
    std::vector<std::string> outputs;
    std::vector<std::vector<int>> output_shapes;  // without the batch
    bool rgb = false;
    double mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
    double pad_value = 114;
    bool center = false;
    double box_padding = 1.25;
    bool udp = false;
    double simcc_split_ratio = 2;
    std::vector<int> strides;
    double score_threshold = 0.05, nms_iou = 0.6;
    int nms_candidates_per_level = 1000, max_boxes = 100;
    bool cut_at_rim = false;
    std::vector<int> labels = {0};  // of a detector, those that count; 0 is a person
    std::string model_file, weights_file;
};

namespace detail {

// A product that the compiler may not fuse into the addition after it: ARM would, and a weight or a
// comparison on the edge would then fall to the other side than in the Python runtime.
template <typename Number>
inline Number product(Number a, Number b) {
    const volatile Number value = a * b;
    return value;
}

// --- reading manifest.json ----------------------------------------------------------------------

struct Json {
    enum Kind { null, truth, number, text, list, object } kind = null;
    double value = 0;
    std::string string;
    std::vector<Json> items;
    std::vector<std::string> keys;  // of an object, in the order of `items`

    const Json* find(const char* key) const {
        for (size_t i = 0; i < keys.size(); i++)
            if (keys[i] == key) return &items[i];
        return nullptr;
    }
    const Json& at(const char* key, Kind want) const {
        const Json* found = find(key);
        if (!found || found->kind != want)
            throw Error(std::string("manifest: '") + key + "' is missing or of another type");
        return *found;
    }
    int whole() const {
        if (kind != number || value != std::floor(value) || std::fabs(value) > 1e9)
            throw Error("manifest: a whole number was expected");
        return static_cast<int>(value);
    }
};

class JsonReader {
public:
    explicit JsonReader(const std::string& text) : at_(text.c_str()), end_(at_ + text.size()) {}

    Json read() {
        Json value = read_value(0);
        skip();
        if (at_ != end_) fail();
        return value;
    }

private:
    [[noreturn]] static void fail() { throw Error("manifest: not readable as JSON"); }
    void skip() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) at_++;
    }
    char next() {
        skip();
        return at_ == end_ ? '\0' : *at_;
    }
    void expect(const char* word) {
        for (; *word; word++, at_++)
            if (at_ == end_ || *at_ != *word) fail();
    }
    Json read_value(int depth) {
        if (depth > 32) fail();
        Json json;
        const char first = next();
        if (first == '{' || first == '[') {
            const bool object = first == '{';
            const char last = object ? '}' : ']';
            json.kind = object ? Json::object : Json::list;
            at_++;
            if (next() == last) return at_++, json;
            while (true) {
                if (object) {
                    if (next() != '"') fail();
                    json.keys.push_back(read_text());
                    if (next() != ':') fail();
                    at_++;
                }
                json.items.push_back(read_value(depth + 1));
                const char after = next();
                if (after != ',' && after != last) fail();
                at_++;
                if (after == last) return json;
            }
        }
        if (first == '"') {
            json.kind = Json::text;
            json.string = read_text();
        } else if (first == 't' || first == 'f') {
            json.kind = Json::truth;
            json.value = first == 't';
            expect(first == 't' ? "true" : "false");
        } else if (first == 'n') {
            expect("null");
        } else if (first == '-' || (first >= '0' && first <= '9')) {
            json.kind = Json::number;
            json.value = read_number();
        } else {
            fail();
        }
        return json;
    }
    // By hand: strtod follows the app's locale, in which a decimal point may be a comma.
    double read_number() {
        const bool negative = *at_ == '-';
        if (negative) at_++;
        double value = 0;
        int exponent = 0;
        const char* const digits = at_;
        for (; is_digit(); at_++) value = value * 10 + (*at_ - '0');
        if (at_ == digits) fail();
        if (at_ != end_ && *at_ == '.')
            for (at_++; is_digit(); at_++, exponent--) value = value * 10 + (*at_ - '0');
        if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
            at_++;
            const bool less = at_ != end_ && *at_ == '-';
            if (at_ != end_ && (*at_ == '-' || *at_ == '+')) at_++;
            int size = 0;
            for (; is_digit(); at_++) size = std::min(size * 10 + (*at_ - '0'), 1000);
            exponent += less ? -size : size;
        }
        // One division of exact numbers: 123.675 is the double that it is in Python.
        value = exponent < 0 ? value / std::pow(10.0, -exponent) : value * std::pow(10.0, exponent);
        return negative ? -value : value;
    }
    bool is_digit() const { return at_ != end_ && *at_ >= '0' && *at_ <= '9'; }
    // Escapes beyond ASCII become '?': the names that are read here have none.
    std::string read_text() {
        std::string text;
        for (at_++; at_ != end_ && *at_ != '"'; at_++) {
            if (*at_ != '\\') {
                text += *at_;
                continue;
            }
            if (++at_ == end_) fail();
            switch (*at_) {
                case 'n': text += '\n'; break;
                case 't': text += '\t'; break;
                case 'r': text += '\r'; break;
                case 'b': text += '\b'; break;
                case 'f': text += '\f'; break;
                case 'u': text += read_escape(); break;
                default: text += *at_;
            }
        }
        if (at_ == end_) fail();
        at_++;
        return text;
    }
    char read_escape() {
        int code = 0;
        for (int i = 0; i < 4; i++) {
            if (++at_ == end_) fail();
            const char letter = *at_;
            const int digit = letter >= '0' && letter <= '9'   ? letter - '0'
                              : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10
                              : letter >= 'A' && letter <= 'F' ? letter - 'A' + 10
                                                               : -1;
            if (digit < 0) fail();
            code = code * 16 + digit;
        }
        return code < 128 ? static_cast<char>(code) : '?';
    }

    const char* at_;
    const char* end_;
};

inline void check_outputs(const Spec& spec) {
    const size_t levels = spec.strides.size();
    bool fits = true;
    if (spec.codec == "simcc") {
        fits = spec.outputs.size() == 2;
        for (const std::vector<int>& shape : spec.output_shapes)
            fits = fits && shape.size() == 2 && shape[0] == spec.output_shapes[0][0];
    } else if (spec.codec == "rtmdet") {
        fits = levels > 0 && spec.outputs.size() == 2 * levels;
        for (size_t i = 0; fits && i < 2 * levels; i++) {
            const std::vector<int>& shape = spec.output_shapes[i];
            fits = shape.size() == 3 && (i < levels || shape[0] == 4) &&
                   shape[1] == spec.output_shapes[i % levels][1] &&
                   shape[2] == spec.output_shapes[i % levels][2];
        }
    } else {
        throw Error(spec.name + ": the codec '" + spec.codec + "' is not in this header");
    }
    for (const std::vector<int>& shape : spec.output_shapes)
        for (int size : shape) fits = fits && size > 0;
    if (!fits) throw Error(spec.name + ": the outputs do not fit the codec '" + spec.codec + "'");
}

}  // namespace detail

// The spec of a model from its manifest.json; Error where it is none that this header can run.
inline Spec read_manifest(const std::string& manifest) {
    using detail::Json;
    const Json root = detail::JsonReader(manifest).read();
    const int schema = root.at("schema", Json::number).whole();
    if (schema != 1) throw Error("manifest: schema " + std::to_string(schema) + ", this reads 1");
    const Json& json = root.at("spec", Json::object);
    Spec spec;
    spec.name = json.at("name", Json::text).string;
    spec.task = json.at("task", Json::text).string;
    spec.codec = json.at("codec", Json::text).string;
    const std::string& variant = root.at("variant", Json::text).string;
    if (variant.rfind("ncnn-", 0) != 0)
        throw Error(spec.name + ": is " + variant + ", and this header runs ncnn");
    spec.arithmetic = root.at("arithmetic", Json::text).string;
    const Json& files = root.at("files", Json::object);
    spec.model_file = files.at("model", Json::object).at("name", Json::text).string;
    spec.weights_file = files.at("weights", Json::object).at("name", Json::text).string;

    const auto sizes = [](const Json& tensor) {
        std::vector<int> shape;
        for (const Json& size : tensor.at("shape", Json::list).items)
            shape.push_back(size.kind == Json::null ? 1 : size.whole());
        if (shape.empty()) throw Error("manifest: a tensor without a shape");
        return std::vector<int>(shape.begin() + 1, shape.end());
    };
    const Json& input = json.at("input", Json::object);
    spec.input = input.at("name", Json::text).string;
    const std::vector<int> image = sizes(input);
    if (image.size() != 3 || image[0] != 3 || image[1] < 2 || image[2] < 2)
        throw Error(spec.name + ": its input is no image");
    spec.input_height = image[1], spec.input_width = image[2];
    for (const Json& output : json.at("outputs", Json::list).items) {
        spec.outputs.push_back(output.at("name", Json::text).string);
        spec.output_shapes.push_back(sizes(output));
    }
    spec.rgb = json.at("color_order", Json::text).string == "rgb";
    const Json &mean = json.at("mean", Json::list), &std = json.at("std", Json::list);
    if (mean.items.size() != 3 || std.items.size() != 3)
        throw Error(spec.name + ": mean and std have three values each");
    for (int i = 0; i < 3; i++) {
        spec.mean[i] = mean.items[i].value, spec.std[i] = std.items[i].value;
        if (mean.items[i].kind != Json::number || !(spec.std[i] > 0))
            throw Error(spec.name + ": mean and std are numbers, std above 0");
    }

    const auto number = [&](const char* key, double other) {
        return json.find(key) ? json.at(key, Json::number).value : other;
    };
    spec.pad_value = number("pad_value", spec.pad_value);
    spec.box_padding = number("box_padding", spec.box_padding);
    spec.simcc_split_ratio = number("simcc_split_ratio", spec.simcc_split_ratio);
    spec.score_threshold = number("score_threshold", spec.score_threshold);
    spec.nms_iou = number("nms_iou", spec.nms_iou);
    if (const Json* most = json.find("nms_candidates_per_level"))
        spec.nms_candidates_per_level = most->whole();
    if (const Json* most = json.find("max_boxes")) spec.max_boxes = most->whole();
    if (json.find("letterbox"))
        spec.center = json.at("letterbox", Json::text).string == "center";
    if (json.find("cut_at_rim"))
        spec.cut_at_rim = json.at("cut_at_rim", Json::truth).value != 0;
    if (json.find("udp")) spec.udp = json.at("udp", Json::truth).value != 0;
    if (json.find("strides"))
        for (const Json& stride : json.at("strides", Json::list).items)
            spec.strides.push_back(stride.whole());
    if (root.find("labels")) {
        spec.labels.clear();
        for (const Json& label : root.at("labels", Json::list).items)
            spec.labels.push_back(label.whole());
    }
    detail::check_outputs(spec);
    return spec;
}

// --- image to input -----------------------------------------------------------------------------

namespace detail {

// Linear interpolation along one axis: output start + k is weight0[k] * source[index0[k]] +
// weight1[k] * source[index1[k]]; outputs before and after have no source at all.
struct Taps {
    int start = 0;
    std::vector<int> index0, index1;
    std::vector<double> weight0, weight1;

    int count() const { return static_cast<int>(index0.size()); }
};

// Taps of `count` outputs at source positions step * k + offset; beyond its ends the source is
// repeated or 0.
inline Taps taps(int count, double step, double offset, int source, bool repeat_edges) {
    Taps taps;
    for (int k = 0; k < count; k++) {
        double position = product(static_cast<double>(k), step) + offset;
        if (repeat_edges) position = std::clamp(position, 0.0, source - 1.0);
        if (!(position > -1 && position < source)) continue;
        if (taps.index0.empty()) taps.start = k;
        const int index = static_cast<int>(std::floor(position));
        const double weight = position - index;
        const bool before = !repeat_edges && index < 0;
        const bool after = !repeat_edges && index + 1 >= source;
        taps.index0.push_back(std::max(index, 0));
        taps.index1.push_back(std::min(index + 1, source - 1));
        taps.weight0.push_back(before ? 0 : 1 - weight);
        taps.weight1.push_back(after ? 0 : weight);
    }
    return taps;
}

inline void check_image(const Image& image) {
    const size_t bytes = image.pixels == Pixels::rgba ? 4 : 3;
    if (!image.data || image.width < 1 || image.height < 1 ||
        image.row_bytes < bytes * static_cast<size_t>(image.width))
        throw Error("an image has pixels, and rows of that many bytes");
}

// Fill `out` (3, H, W): the image by its taps, `fill` elsewhere, all of it normalised. Row weights
// are rounded to 1/128 as in the Python runtime.
inline void resample(const Image& image, const Taps& x, const Taps& y, const Spec& spec,
                     double fill, float* out) {
    constexpr int unit = 128;
    const int height = spec.input_height, width = spec.input_width;
    const int bytes = image.pixels == Pixels::rgba ? 4 : 3;
    const bool swap = spec.rgb == (image.pixels == Pixels::bgr);
    const size_t plane = static_cast<size_t>(height) * width;
    std::vector<float> near(x.count()), far(x.count());
    for (int channel = 0; channel < 3; channel++) {
        const double gain = 1 / spec.std[channel];
        const float bias = static_cast<float>(-spec.mean[channel] * gain);
        float* const target = out + channel * plane;
        if (x.count() != width || y.count() != height)
            std::fill(target, target + plane,
                      bias + static_cast<float>(fill) * static_cast<float>(gain));
        for (int k = 0; k < x.count(); k++) {
            near[k] = static_cast<float>(x.weight0[k] * gain / unit);
            far[k] = static_cast<float>(x.weight1[k] * gain / unit);
        }
        const int first = swap ? 2 - channel : channel;
        for (int row = 0; row < y.count(); row++) {
            const double weight0 = y.weight0[row], weight1 = y.weight1[row];
            const int low = static_cast<int>(std::nearbyint(weight1 * unit));
            // Where both taps count, they sum to the unit: a plain area keeps its level exactly.
            const int high = weight0 > 0 && weight1 > 0
                                 ? unit - low
                                 : static_cast<int>(std::nearbyint(weight0 * unit));
            const uint8_t* const upper = image.data + y.index0[row] * image.row_bytes + first;
            const uint8_t* const lower = image.data + y.index1[row] * image.row_bytes + first;
            float* const line = target + static_cast<size_t>(y.start + row) * width + x.start;
            for (int k = 0; k < x.count(); k++) {
                const int left = x.index0[k] * bytes, right = x.index1[k] * bytes;
                const int a = upper[left] * high + lower[left] * low;
                const int b = upper[right] * high + lower[right] * low;
                line[k] = static_cast<float>(a) * near[k] + static_cast<float>(b) * far[k] + bias;
            }
        }
    }
}

// Add what lies beyond the image to the pixels that reach over its ends: their weights sum to less
// than 1.
inline void blend_rim(const Taps& x, const Taps& y, const Spec& spec, double fill, float* out) {
    const int height = spec.input_height, width = spec.input_width;
    for (int channel = 0; channel < 3; channel++)
        for (int row = 0; row < y.count(); row++)
            for (int k = 0; k < x.count(); k++) {
                const double have =
                    (x.weight0[k] + x.weight1[k]) * (y.weight0[row] + y.weight1[row]);
                if (have < 1 - 1e-9)
                    out[(static_cast<size_t>(channel) * height + y.start + row) * width + x.start +
                        k] += static_cast<float>(fill / spec.std[channel] * (1 - have));
            }
}

// The image at step * k + offset, `fill` beyond its ends.
inline Placement warp(const Image& image, const Spec& spec, const Placement& at, double fill,
                      float* out) {
    const Taps x = taps(spec.input_width, at.scale_x, at.offset_x, image.width, false);
    const Taps y = taps(spec.input_height, at.scale_y, at.offset_y, image.height, false);
    resample(image, x, y, spec, fill, out);
    if (fill != 0) blend_rim(x, y, spec, fill, out);
    return at;
}

}  // namespace detail

// Fit a whole image into a detector's input `out`, (3, H, W) floats, and say where it lies.
//
// top-left: mmdet's keep-ratio resize, s = min(W / w, H / h), new size int(side * s + 0.5), bilinear
// with half-pixel centres and repeated edges, one scale an axis on the way back. center: mmpose's
// BottomupResize `fit`.
inline Placement letterbox(const Spec& spec, const Image& image, float* out) {
    detail::check_image(image);
    const int width = spec.input_width, height = spec.input_height;
    const double w = image.width, h = image.height;
    if (spec.center) {
        const double step = std::max(w / width, h / height);
        const Placement at{step, step, (w - detail::product<double>(width, step)) / 2,
                           (h - detail::product<double>(height, step)) / 2};
        return detail::warp(image, spec, at, spec.pad_value, out);
    }
    const double scale = std::min(width / w, height / h);
    const int new_w = static_cast<int>(detail::product(w, scale) + 0.5);
    const int new_h = static_cast<int>(detail::product(h, scale) + 0.5);
    if (new_w < 1 || new_h < 1)
        throw Error("an image of " + std::to_string(image.width) + "x" +
                    std::to_string(image.height) + " leaves nothing of a side in the input");
    const double step_x = w / new_w, step_y = h / new_h;
    detail::resample(image, detail::taps(new_w, step_x, 0.5 * step_x - 0.5, image.width, true),
                     detail::taps(new_h, step_y, 0.5 * step_y - 0.5, image.height, true), spec,
                     spec.pad_value, out);
    return {step_x, step_y, 0, 0};
}

// Cut a box out of an image for a top-down pose model: mmpose's TopdownAffine without rotation. The
// box may lie partly or wholly outside; what is outside is 0.
inline Placement crop(const Spec& spec, const Image& image, const Box& box, float* out) {
    detail::check_image(image);
    const double x1 = box.x1, y1 = box.y1, x2 = box.x2, y2 = box.y2;
    if (!std::isfinite(x1 + y1 + x2 + y2) || x2 <= x1 || y2 <= y1)
        throw Error("a box is x1, y1, x2, y2 with x1 < x2 and y1 < y2");
    double scale_w = detail::product(x2 - x1, spec.box_padding);
    double scale_h = detail::product(y2 - y1, spec.box_padding);
    const double aspect = static_cast<double>(spec.input_width) / spec.input_height;
    const double wide = detail::product(scale_h, aspect);
    if (scale_w > wide) {
        scale_h = scale_w / aspect;
    } else {
        scale_w = wide;
    }
    // The box ends at the last pixel's centre (UDP), or one step behind it.
    const int less = spec.udp ? 1 : 0;
    const Placement at{scale_w / (spec.input_width - less), scale_h / (spec.input_height - less),
                       (x1 + x2 - scale_w) / 2, (y1 + y2 - scale_h) / 2};
    return detail::warp(image, spec, at, 0, out);
}

// --- outputs to boxes and keypoints ---------------------------------------------------------------

namespace detail {

// No answer lies farther out, in input pixels: the way back to the image would overflow.
constexpr float farthest = 1e6f;

inline bool all_finite(const float* values, int count) {
    for (int i = 0; i < count; i++)
        if (!std::isfinite(values[i])) return false;
    return true;
}

inline bool is_real(const Box& box) {
    return std::fabs(box.x1) <= farthest && std::fabs(box.y1) <= farthest &&
           std::fabs(box.x2) <= farthest && std::fabs(box.y2) <= farthest;
}

}  // namespace detail

// Keypoints in input pixels of one person's SimCC outputs, (K, bins of x) and (K, bins of y): the
// first maximum of each axis; the score is the smaller one of both, and one of 0 or less puts the
// keypoint at bin -1. A keypoint with a value that is not finite was not seen: its score is 0.
inline std::vector<Keypoint> decode_simcc(const Spec& spec, const Map& simcc_x,
                                          const Map& simcc_y) {
    std::vector<Keypoint> keypoints(simcc_x.height);
    const float ratio = static_cast<float>(spec.simcc_split_ratio);
    for (int k = 0; k < simcc_x.height; k++) {
        const float* const x = simcc_x.data + static_cast<size_t>(k) * simcc_x.width;
        const float* const y = simcc_y.data + static_cast<size_t>(k) * simcc_y.width;
        if (!detail::all_finite(x, simcc_x.width) || !detail::all_finite(y, simcc_y.width)) {
            keypoints[k] = {-1 / ratio, -1 / ratio, 0};
            continue;
        }
        const float* const best_x = std::max_element(x, x + simcc_x.width);
        const float* const best_y = std::max_element(y, y + simcc_y.width);
        const float score = std::min(*best_x, *best_y);
        const bool found = score > 0;
        keypoints[k] = {static_cast<float>(found ? best_x - x : -1) / ratio,
                        static_cast<float>(found ? best_y - y : -1) / ratio, score};
    }
    return keypoints;
}

// Greedy non-maximum suppression within each class: the kept boxes, best first, `count` at most. A
// box goes when its intersection over union with a better one exceeds `iou_limit`.
inline std::vector<Box> suppress(std::vector<Box> boxes, double iou_limit, int count) {
    std::stable_sort(boxes.begin(), boxes.end(),
                     [](const Box& a, const Box& b) { return a.score > b.score; });
    const auto area = [](float width, float height) {
        return detail::product(std::max(width, 0.0f), std::max(height, 0.0f));
    };
    const float limit = static_cast<float>(iou_limit);
    std::vector<Box> kept;
    std::vector<bool> gone(boxes.size());
    for (size_t i = 0; i < boxes.size() && static_cast<int>(kept.size()) < count; i++) {
        if (gone[i]) continue;
        const Box& best = boxes[i];
        kept.push_back(best);
        const float own = area(best.x2 - best.x1, best.y2 - best.y1);
        for (size_t j = i + 1; j < boxes.size(); j++) {
            const Box& other = boxes[j];
            if (gone[j] || other.label != best.label) continue;
            const float overlap = area(std::min(best.x2, other.x2) - std::max(best.x1, other.x1),
                                       std::min(best.y2, other.y2) - std::max(best.y1, other.y1));
            const float both = own + area(other.x2 - other.x1, other.y2 - other.y1) - overlap;
            gone[j] = overlap > detail::product(limit, both);
        }
    }
    return kept;
}

// Boxes in input pixels of RTMDet's raw heads, best first. `outputs`: the logits (C, h, w) of every
// stride, then the distances (4, h, w) of every stride. A cell's prior is (column, row) * stride,
// its score sigmoid(logit), its box the prior less or plus the distances. A cell with a value that
// is not finite is no box. With `cut_at_rim` boxes end at the input's rim before the suppression,
// and those without an area go.
inline std::vector<Box> decode_rtmdet(const Spec& spec, const std::vector<Map>& outputs) {
    const double score = spec.score_threshold;
    const float least = score > 0 && score < 1
                            ? static_cast<float>(std::log(score / (1 - score)))
                            : -std::numeric_limits<float>::infinity();
    const size_t levels = spec.strides.size();
    const float right = static_cast<float>(spec.input_width);
    const float bottom = static_cast<float>(spec.input_height);
    std::vector<Box> boxes;
    for (size_t level = 0; level < levels; level++) {
        const Map &logits = outputs[level], &sides = outputs[levels + level];
        const int cells = logits.height * logits.width;
        std::vector<bool> lost(cells);
        for (const Map* map : {&logits, &sides})
            for (int channel = 0; channel < map->channels; channel++)
                for (int cell = 0; cell < cells; cell++)
                    if (!std::isfinite(map->data[channel * map->channel_step + cell]))
                        lost[cell] = true;
        std::vector<std::pair<float, int>> picked;  // logit, label * cells + cell
        for (int label = 0; label < logits.channels; label++) {
            const float* const plane = logits.data + label * logits.channel_step;
            for (int cell = 0; cell < cells; cell++)
                if (!lost[cell] && plane[cell] > least)
                    picked.emplace_back(plane[cell], label * cells + cell);
        }
        const size_t most = static_cast<size_t>(std::max(spec.nms_candidates_per_level, 0));
        if (picked.size() > most) {
            std::stable_sort(picked.begin(), picked.end(), [](const auto& a, const auto& b) {
                return a.first > b.first;
            });
            picked.resize(most);
        }
        const float stride = static_cast<float>(spec.strides[level]);
        for (const auto& [logit, index] : picked) {
            const int cell = index % cells;
            const float x = static_cast<float>(cell % logits.width) * stride;
            const float y = static_cast<float>(cell / logits.width) * stride;
            const auto side = [&](int which) { return sides.data[which * sides.channel_step + cell]; };
            Box box{x - side(0), y - side(1), x + side(2), y + side(3),
                    1 / (1 + std::exp(-logit)), index / cells};
            if (!detail::is_real(box)) continue;
            if (spec.cut_at_rim) {
                box.x1 = std::clamp(box.x1, 0.0f, right), box.x2 = std::clamp(box.x2, 0.0f, right);
                box.y1 = std::clamp(box.y1, 0.0f, bottom), box.y2 = std::clamp(box.y2, 0.0f, bottom);
                if (!(box.x2 > box.x1 && box.y2 > box.y1)) continue;
            }
            boxes.push_back(box);
        }
    }
    return suppress(std::move(boxes), spec.nms_iou, spec.max_boxes);
}

// --- from the input back to the image -------------------------------------------------------------

inline void to_image(const Placement& placement, float& x, float& y) {
    x = x * static_cast<float>(placement.scale_x) + static_cast<float>(placement.offset_x);
    y = y * static_cast<float>(placement.scale_y) + static_cast<float>(placement.offset_y);
}

// What `label` may be instead of a class: every one, or those that the manifest names.
constexpr int every_label = -1, own_labels = -2;

// Boxes above a score in image pixels, clipped to the image; what lies wholly beside it goes. Of
// the classes in `labels`, or of all where there are none.
inline std::vector<Box> boxes_in_image(const std::vector<Box>& boxes, const Placement& placement,
                                       const Image& image, double score_threshold,
                                       const std::vector<int>& labels) {
    const float width = static_cast<float>(image.width), height = static_cast<float>(image.height);
    std::vector<Box> real;
    for (Box box : boxes) {
        if (!(box.score > static_cast<float>(score_threshold))) continue;
        if (!labels.empty() && std::find(labels.begin(), labels.end(), box.label) == labels.end())
            continue;
        to_image(placement, box.x1, box.y1);
        to_image(placement, box.x2, box.y2);
        box.x1 = std::clamp(box.x1, 0.0f, width), box.x2 = std::clamp(box.x2, 0.0f, width);
        box.y1 = std::clamp(box.y1, 0.0f, height), box.y2 = std::clamp(box.y2, 0.0f, height);
        if (box.x2 > box.x1 && box.y2 > box.y1) real.push_back(box);
    }
    return real;
}

// The same of one class; `every_label` keeps all.
inline std::vector<Box> boxes_in_image(const std::vector<Box>& boxes, const Placement& placement,
                                       const Image& image, double score_threshold, int label) {
    const std::vector<int> labels(label >= 0 ? 1 : 0, label);
    return boxes_in_image(boxes, placement, image, score_threshold, labels);
}

}  // namespace edgepose

#endif  // EDGEPOSE_HPP

// --- the networks, on ncnn ------------------------------------------------------------------------

#if defined(EDGEPOSE_NCNN) && !defined(EDGEPOSE_HPP_NCNN)
#define EDGEPOSE_HPP_NCNN

#include <cstring>

#include "datareader.h"
#include "net.h"

namespace edgepose {

// A model on ncnn's CPU kernels. `weights` must outlive it: nothing of them is copied that ncnn can
// use as it lies, which suits an asset that is stored uncompressed and mapped.
class Network {
public:
    Network(Spec spec, const std::string& param, const void* weights, size_t weights_size,
            int threads)
        : spec_(std::move(spec)) {
        const std::string& arithmetic = spec_.arithmetic;
        if (arithmetic != "fp32" && arithmetic != "fp16" && arithmetic != "fp16-storage" &&
            arithmetic != "bf16")
            throw Error(spec_.name + ": unknown arithmetic '" + arithmetic + "'");
        const bool half = arithmetic == "fp16" || arithmetic == "fp16-storage";
        net_.opt.num_threads = std::max(threads, 1);
        net_.opt.use_vulkan_compute = false;
        net_.opt.use_fp16_packed = half;
        net_.opt.use_fp16_storage = half;
        net_.opt.use_fp16_arithmetic = arithmetic == "fp16";
        net_.opt.use_bf16_storage = arithmetic == "bf16";
        net_.opt.use_bf16_packed = arithmetic == "bf16";
        Reader reader(weights, weights_size);
        if (net_.load_param_mem(param.c_str()) != 0 || net_.load_model(reader) != 0)
            throw Error(spec_.name + ": ncnn cannot load it");
        if (!reader.finished())
            throw Error(spec_.name + ": weights and model do not belong together");
    }

    virtual ~Network() = default;

    const Spec& spec() const { return spec_; }

    // The outputs of one input (3, H, W), in the order of the spec. Virtual for who wants to time it.
    virtual std::vector<ncnn::Mat> run(const ncnn::Mat& input) const {
        ncnn::Extractor extractor = net_.create_extractor();
        if (extractor.input(spec_.input.c_str(), input) != 0)
            throw Error(spec_.name + ": no input '" + spec_.input + "'");
        std::vector<ncnn::Mat> outputs(spec_.outputs.size());
        for (size_t i = 0; i < outputs.size(); i++) {
            const std::string& name = spec_.outputs[i];
            if (extractor.extract(name.c_str(), outputs[i]) != 0)
                throw Error(spec_.name + ": ncnn failed on the output '" + name + "'");
            const ncnn::Mat& mat = outputs[i];
            const std::vector<int> got = mat.dims == 3 ? std::vector<int>{mat.c, mat.h, mat.w}
                                                       : std::vector<int>{mat.h, mat.w};
            if (got != spec_.output_shapes[i] || mat.elemsize != sizeof(float))
                throw Error(spec_.name + ": the output '" + name + "' is of another shape");
        }
        return outputs;
    }

    // An input to fill: ncnn may pad the end of a channel, so the values are put in by `fill`.
    template <typename Fill>
    std::pair<ncnn::Mat, Placement> input(Fill fill) const {
        const size_t plane = static_cast<size_t>(spec_.input_height) * spec_.input_width;
        ncnn::Mat mat(spec_.input_width, spec_.input_height, 3);
        if (mat.empty()) throw Error(spec_.name + ": not enough memory for its input");
        if (mat.cstep == plane) {
            const Placement at = fill(static_cast<float*>(mat.data));
            return {mat, at};
        }
        std::vector<float> values(3 * plane);
        const Placement at = fill(values.data());
        for (int c = 0; c < 3; c++)
            memcpy(mat.channel(c).data, values.data() + c * plane, plane * sizeof(float));
        return {mat, at};
    }

private:
    class Reader : public ncnn::DataReader {
    public:
        Reader(const void* data, size_t size)
            : at_(static_cast<const unsigned char*>(data)), left_(size) {}
        size_t read(void* to, size_t size) const override {
            if (size > left_) return 0;
            memcpy(to, at_, size);
            at_ += size, left_ -= size;
            return size;
        }
        size_t reference(size_t size, const void** from) const override {
            // ncnn reads the values in place, which floats that lie crooked forbid.
            if (size > left_ || reinterpret_cast<uintptr_t>(at_) % 4 != 0) return 0;
            *from = at_;
            at_ += size, left_ -= size;
            return size;
        }
        bool finished() const { return left_ == 0; }

    private:
        mutable const unsigned char* at_;
        mutable size_t left_;
    };

    Spec spec_;
    ncnn::Net net_;
};

inline Map map_of(const ncnn::Mat& mat) {
    return {static_cast<const float*>(mat.data), mat.c, mat.h, mat.w, mat.cstep};
}

// People in an image, best first, in its pixels: what the manifest's `labels` name (class 0 where
// it has none), or another class by `label`, or `every_label`.
inline std::vector<Box> detect(const Network& detector, const Image& image,
                               double score_threshold = 0.3, int label = own_labels) {
    const Spec& spec = detector.spec();
    if (spec.codec != "rtmdet") throw Error(spec.name + " is no detector of this header");
    const auto [input, placement] =
        detector.input([&](float* out) { return letterbox(spec, image, out); });
    const std::vector<ncnn::Mat> outputs = detector.run(input);
    std::vector<Map> maps;
    for (const ncnn::Mat& output : outputs) maps.push_back(map_of(output));
    const std::vector<Box> boxes = decode_rtmdet(spec, maps);
    if (label == own_labels)
        return boxes_in_image(boxes, placement, image, score_threshold, spec.labels);
    return boxes_in_image(boxes, placement, image, score_threshold, label);
}

// Keypoints of the person in a box, in image pixels.
inline std::vector<Keypoint> estimate(const Network& pose, const Image& image, const Box& box) {
    const Spec& spec = pose.spec();
    if (spec.codec != "simcc") throw Error(spec.name + " is no pose model of this header");
    const auto [input, placement] =
        pose.input([&](float* out) { return crop(spec, image, box, out); });
    const std::vector<ncnn::Mat> outputs = pose.run(input);
    std::vector<Keypoint> keypoints = decode_simcc(spec, map_of(outputs[0]), map_of(outputs[1]));
    for (Keypoint& point : keypoints) to_image(placement, point.x, point.y);
    return keypoints;
}

// An image in, poses out, best box first.
inline std::vector<Pose> find_poses(const Network& detector, const Network& pose,
                                    const Image& image, double score_threshold = 0.3) {
    std::vector<Pose> poses;
    for (const Box& box : detect(detector, image, score_threshold))
        poses.push_back({box, estimate(pose, image, box)});
    return poses;
}

}  // namespace edgepose

#endif  // EDGEPOSE_NCNN
