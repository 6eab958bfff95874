// Pictures, from pixels to people, through the header that apps use.
#define EDGEPOSE_NCNN
#include "../../../app/android/edgepose.hpp"

#include <math.h>
#include <stdio.h>

#include "device.h"
#include "failure.h"
#include "files.h"
#include "json.h"
#include "network.h"
#include "work.h"

namespace runner {
namespace {

// What the header cannot use ends the runner with this code.
template <typename Call>
auto guarded(Exit code, const std::string& about, Call call) {
    try {
        return call();
    } catch (const edgepose::Error& error) {
        const std::string reason = library_message();
        throw Failure{code, (about.empty() ? "" : about + ": ") + error.what() +
                                (reason.empty() ? "" : " (" + reason + ")")};
    }
}

// A network of the header that adds up the time it takes.
class TimedNetwork : public edgepose::Network {
public:
    using edgepose::Network::Network;

    std::vector<ncnn::Mat> run(const ncnn::Mat& input) const override {
        const int64_t start = now_ns();
        std::vector<ncnn::Mat> outputs = edgepose::Network::run(input);
        spent_ns_ += now_ns() - start;
        return outputs;
    }
    int64_t spent_ns() const { return spent_ns_; }

private:
    mutable int64_t spent_ns_ = 0;
};

struct Model {
    std::string weights;  // the network points into them
    std::unique_ptr<TimedNetwork> network;
    Precision precision = Precision::fp32;
    int64_t load_ns = 0;
};

Model load_model(const NetworkFiles& files, const Options& options, const char* codec) {
    set_phase(Exit::load, "loading the network");
    const edgepose::Spec spec = guarded(Exit::load, files.manifest, [&] {
        return edgepose::read_manifest(read_file(files.manifest, Exit::load));
    });
    if (spec.codec != codec)
        throw Failure{Exit::load, files.manifest + ": " + spec.name + " has the codec '" +
                                      spec.codec + "', here it must be '" + codec + "'"};
    check_param(files.param);
    Model model;
    const int64_t start = now_ns();
    const std::string param = read_file(files.param, Exit::load);
    model.weights = read_file(files.bin, Exit::load);
    model.network = guarded(Exit::load, files.bin, [&] {
        return std::make_unique<TimedNetwork>(spec, param, model.weights.data(),
                                              model.weights.size(), options.threads);
    });
    model.load_ns = now_ns() - start;
    model.precision = parse_precision("the arithmetic of " + files.manifest, spec.arithmetic);
    return model;
}

struct Picture {
    std::string path, bytes;
    edgepose::Image image;
};

Picture load_picture(const PictureFile& file, const Model& detector) {
    set_phase(Exit::input, "reading the pictures");
    const size_t width = static_cast<size_t>(file.width), height = static_cast<size_t>(file.height);
    Picture picture{file.path, read_file(file.path, Exit::input), {}};
    if (picture.bytes.size() != 3 * width * height)
        throw Failure{Exit::input, file.path + ": " + std::to_string(picture.bytes.size()) +
                                       " bytes, a picture of " + std::to_string(height) + "x" +
                                       std::to_string(width) + " (height x width) has " +
                                       std::to_string(3 * width * height)};
    picture.image = {reinterpret_cast<const uint8_t*>(picture.bytes.data()), file.width,
                     file.height, 3 * width, edgepose::Pixels::bgr};
    // One that the detector's input cannot hold is told now and not as a failed inference.
    if (detector.network)
        guarded(Exit::input, file.path, [&] {
            return detector.network->input([&](float* out) {
                return edgepose::letterbox(detector.network->spec(), picture.image, out);
            });
        });
    return picture;
}

// Both models, and how a picture goes through them.
class Finder {
public:
    explicit Finder(const Options& options) : options_(options) {
        if (!options.detector.param.empty())
            detector_ = load_model(options.detector, options, "rtmdet");
        pose_ = load_model(options.model, options, "simcc");
    }

    const Model& detector() const { return detector_; }
    const Model& pose() const { return pose_; }
    bool detects() const { return detector_.network != nullptr; }
    int64_t spent_ns() const {
        return pose_.network->spent_ns() + (detects() ? detector_.network->spent_ns() : 0);
    }

    // The best boxes, or, without a detector, the whole picture.
    std::vector<edgepose::Box> boxes(const edgepose::Image& image) const {
        if (!detects())
            return {{0, 0, static_cast<float>(image.width), static_cast<float>(image.height), 1, 0}};
        std::vector<edgepose::Box> boxes = guarded(Exit::inference, "", [&] {
            return edgepose::detect(*detector_.network, image, options_.score);
        });
        if (options_.people > 0 && boxes.size() > static_cast<size_t>(options_.people))
            boxes.resize(static_cast<size_t>(options_.people));
        return boxes;
    }
    std::vector<edgepose::Pose> poses(const edgepose::Image& image,
                                      const std::vector<edgepose::Box>& boxes) const {
        std::vector<edgepose::Pose> poses;
        for (const edgepose::Box& box : boxes)
            poses.push_back({box, guarded(Exit::inference, "", [&] {
                                 return edgepose::estimate(*pose_.network, image, box);
                             })});
        return poses;
    }

private:
    Options options_;
    Model detector_, pose_;
};

class Pictures : public Work {
public:
    explicit Pictures(const Options& options)
        : finder_(options),
          picture_(load_picture(options.pictures[0], finder_.detector())),
          interval_(finder_.detects() ? options.interval : 1) {}

    void run(int64_t number) override {
        if (number == 0) networks_ns_.clear();
        const int64_t before = finder_.spent_ns();
        if (number % interval_ == 0) boxes_ = finder_.boxes(picture_.image);
        people_ = finder_.poses(picture_.image, boxes_);
        networks_ns_.push_back(finder_.spent_ns() - before);
    }
    void forget() override { people_.clear(); }
    std::vector<Output> outputs() override {
        const int count = static_cast<int>(people_.size());
        const std::vector<int>& shape = finder_.pose().network->spec().output_shapes[0];
        Output boxes{"boxes", {1, count, 5}, {}, ""};
        Output keypoints{"keypoints", {1, count, shape[0], 3}, {}, ""};
        for (const edgepose::Pose& one : people_) {
            const edgepose::Box& box = one.box;
            boxes.values.insert(boxes.values.end(), {box.x1, box.y1, box.x2, box.y2, box.score});
            for (const edgepose::Keypoint& point : one.keypoints)
                keypoints.values.insert(keypoints.values.end(), {point.x, point.y, point.score});
        }
        return {boxes, keypoints};
    }

    int group() const override { return interval_; }
    Precision precision() const override { return finder_.pose().precision; }
    int64_t load_ns() const override { return finder_.pose().load_ns + finder_.detector().load_ns; }
    std::string pipeline(size_t samples) const override {
        std::vector<int64_t> networks = networks_ns_;
        networks.resize(samples);
        JsonObject pipeline;
        pipeline.add("interval", interval_).add("people", static_cast<int>(boxes_.size()));
        pipeline.raw("detector_computes_in",
                     finder_.detects() ? json(computes_in(finder_.detector().precision)) : "null");
        return pipeline.add("networks_ns", networks).text();
    }

private:
    Finder finder_;
    Picture picture_;
    int interval_;
    std::vector<edgepose::Box> boxes_;
    std::vector<edgepose::Pose> people_;
    std::vector<int64_t> networks_ns_;
};

std::string number_json(float value) {
    if (!isfinite(value)) return "null";
    char text[32];
    snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
    return text;
}

std::string person_json(const edgepose::Pose& person) {
    const edgepose::Box& box = person.box;
    std::vector<std::string> corners, points;
    for (float value : {box.x1, box.y1, box.x2, box.y2}) corners.push_back(number_json(value));
    for (const edgepose::Keypoint& point : person.keypoints)
        points.push_back(json_list(
            {number_json(point.x), number_json(point.y), number_json(point.score)}));
    JsonObject json;
    json.raw("box_xyxy", json_list(corners)).raw("score", number_json(box.score));
    return json.raw("keypoints", json_list(points)).text();
}

}  // namespace

std::unique_ptr<Work> load_pictures(const Options& options) {
    return std::make_unique<Pictures>(options);
}

std::vector<std::string> find_people(const Options& options) {
    const Finder finder(options);
    std::vector<std::string> lines;
    for (const PictureFile& file : options.pictures) {
        throw_if_stopped();
        const Picture picture = load_picture(file, finder.detector());
        set_phase(Exit::inference, "running the network");
        std::vector<std::string> people;
        for (const edgepose::Pose& one :
             finder.poses(picture.image, finder.boxes(picture.image)))
            people.push_back(person_json(one));
        JsonObject line;
        line.add("schema", 1).add("kind", "edgepose-people").add("picture", file.path);
        lines.push_back(line.raw("people", json_list(people)).text());
    }
    return lines;
}

}  // namespace runner
