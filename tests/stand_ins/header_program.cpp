// edgepose.hpp from the command line, for its tests: raw files in, raw float32 files out.
//
//     letterbox MANIFEST IMAGE PIXELS WIDTH HEIGHT ROW_BYTES OUT
//     crop MANIFEST IMAGE PIXELS WIDTH HEIGHT ROW_BYTES OUT X1 Y1 X2 Y2
//     decode MANIFEST OUT OUTPUT...
//     suppress OUT BOXES IOU COUNT
//     spec MANIFEST
//     image OUT BOXES WIDTH HEIGHT SCORE LABEL SCALE_X SCALE_Y OFFSET_X OFFSET_Y
//     find DETECTOR_FOLDER POSE_FOLDER IMAGE PIXELS WIDTH HEIGHT ROW_BYTES OUT   (with ncnn)
#include "edgepose.hpp"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

namespace {

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw edgepose::Error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<float> floats(const std::string& path) {
    const std::string bytes = read(path);
    std::vector<float> values(bytes.size() / sizeof(float));
    memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

void write(const std::string& path, const std::vector<float>& values) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
}

void append(std::vector<float>& values, const edgepose::Box& box) {
    values.insert(values.end(), {box.x1, box.y1, box.x2, box.y2, box.score, float(box.label)});
}

edgepose::Image image_of(const std::string& bytes, char** arguments) {
    const std::string pixels = arguments[0];
    edgepose::Image image;
    image.data = reinterpret_cast<const uint8_t*>(bytes.data());
    image.pixels = pixels == "bgr"   ? edgepose::Pixels::bgr
                   : pixels == "rgb" ? edgepose::Pixels::rgb
                                     : edgepose::Pixels::rgba;
    image.width = atoi(arguments[1]);
    image.height = atoi(arguments[2]);
    image.row_bytes = static_cast<size_t>(atoi(arguments[3]));
    return image;
}

std::vector<edgepose::Box> boxes_of(const std::string& path) {
    const std::vector<float> values = floats(path);
    std::vector<edgepose::Box> boxes;
    for (size_t i = 0; i + 6 <= values.size(); i += 6)
        boxes.push_back({values[i], values[i + 1], values[i + 2], values[i + 3], values[i + 4],
                         static_cast<int>(values[i + 5])});
    return boxes;
}

void to_input(const std::string& what, char** arguments) {
    const edgepose::Spec spec = edgepose::read_manifest(read(arguments[0]));
    const std::string bytes = read(arguments[1]);
    const edgepose::Image image = image_of(bytes, arguments + 2);
    std::vector<float> out(3 * static_cast<size_t>(spec.input_height) * spec.input_width, -7777);
    edgepose::Placement at;
    if (what == "letterbox") {
        at = edgepose::letterbox(spec, image, out.data());
    } else {
        edgepose::Box box;
        box.x1 = strtof(arguments[7], nullptr), box.y1 = strtof(arguments[8], nullptr);
        box.x2 = strtof(arguments[9], nullptr), box.y2 = strtof(arguments[10], nullptr);
        at = edgepose::crop(spec, image, box, out.data());
    }
    write(arguments[6], out);
    printf("%.17g %.17g %.17g %.17g\n", at.scale_x, at.scale_y, at.offset_x, at.offset_y);
}

void decode(int count, char** arguments) {
    const edgepose::Spec spec = edgepose::read_manifest(read(arguments[0]));
    std::vector<std::vector<float>> values;
    std::vector<edgepose::Map> maps;
    for (int i = 2; i < count; i++) {
        const std::vector<float> raw = floats(arguments[i]);
        const std::vector<int>& shape = spec.output_shapes[i - 2];
        const bool flat = shape.size() == 2;
        edgepose::Map map{nullptr, flat ? 1 : shape[0], shape[flat ? 0 : 1], shape[flat ? 1 : 2], 0};
        const size_t plane = static_cast<size_t>(map.height) * map.width;
        map.channel_step = plane + 3;  // as ncnn pads its channels
        std::vector<float> padded(map.channels * map.channel_step, 1e9f);
        for (int c = 0; c < map.channels; c++)
            memcpy(&padded[c * map.channel_step], &raw[c * plane], plane * sizeof(float));
        values.push_back(std::move(padded));
        maps.push_back(map);
    }
    for (size_t i = 0; i < maps.size(); i++) maps[i].data = values[i].data();
    std::vector<float> out;
    if (spec.codec == "simcc") {
        for (const edgepose::Keypoint& point : edgepose::decode_simcc(spec, maps[0], maps[1]))
            out.insert(out.end(), {point.x, point.y, point.score});
    } else {
        for (const edgepose::Box& box : edgepose::decode_rtmdet(spec, maps)) append(out, box);
    }
    write(arguments[1], out);
}

void print_spec(const edgepose::Spec& spec) {
    printf("%s %s %s %s %s %d %d\n", spec.name.c_str(), spec.task.c_str(), spec.codec.c_str(),
           spec.arithmetic.c_str(), spec.input.c_str(), spec.input_height, spec.input_width);
    for (int i = 0; i < 3; i++) printf("%.17g %.17g ", spec.mean[i], spec.std[i]);
    printf("\n");
    for (int label : spec.labels) printf("%d ", label);
    printf("\n");
}

#ifdef EDGEPOSE_NCNN
struct Model {
    edgepose::Spec spec;
    std::string param, weights;
    explicit Model(const std::string& folder)
        : spec(edgepose::read_manifest(read(folder + "/manifest.json"))),
          param(read(folder + "/" + spec.model_file)),
          weights(read(folder + "/" + spec.weights_file)) {}
};

void find(char** arguments) {
    const Model first(arguments[0]), second(arguments[1]);
    const edgepose::Network detector(first.spec, first.param, first.weights.data(),
                                     first.weights.size(), 1);
    const edgepose::Network pose(second.spec, second.param, second.weights.data(),
                                 second.weights.size(), 1);
    const std::string bytes = read(arguments[2]);
    std::vector<float> out;
    for (const edgepose::Pose& one : find_poses(detector, pose, image_of(bytes, arguments + 3))) {
        append(out, one.box);
        for (const edgepose::Keypoint& point : one.keypoints)
            out.insert(out.end(), {point.x, point.y, point.score});
    }
    write(arguments[7], out);
}
#endif

}  // namespace

int main(int count, char** arguments) {
    const std::string what = count > 2 ? arguments[1] : "";
    try {
        if ((what == "letterbox" && count == 9) || (what == "crop" && count == 13)) {
            to_input(what, arguments + 2);
        } else if (what == "decode") {
            decode(count - 2, arguments + 2);
        } else if (what == "suppress") {
            std::vector<float> out;
            for (const edgepose::Box& box : edgepose::suppress(
                     boxes_of(arguments[3]), strtod(arguments[4], nullptr), atoi(arguments[5])))
                append(out, box);
            write(arguments[2], out);
        } else if (what == "spec") {
            print_spec(edgepose::read_manifest(read(arguments[2])));
        } else if (what == "image" && count == 12) {
            double given[4];
            for (int i = 0; i < 4; i++) given[i] = strtod(arguments[8 + i], nullptr);
            edgepose::Image image;
            image.width = atoi(arguments[4]), image.height = atoi(arguments[5]);
            std::vector<float> out;
            for (const edgepose::Box& box : edgepose::boxes_in_image(
                     boxes_of(arguments[3]), {given[0], given[1], given[2], given[3]}, image,
                     strtod(arguments[6], nullptr), atoi(arguments[7])))
                append(out, box);
            write(arguments[2], out);
#ifdef EDGEPOSE_NCNN
        } else if (what == "find" && count == 10) {
            find(arguments + 2);
#endif
        } else {
            fprintf(stderr, "usage: see the top of header_program.cpp\n");
            return 2;
        }
    } catch (const edgepose::Error& error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
