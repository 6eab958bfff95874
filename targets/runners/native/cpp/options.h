// The command line.
#pragma once

#include <string>
#include <vector>

namespace runner {

enum class Precision { fp32, fp16, fp16_storage, bf16 };

struct TensorFile {
    std::string name;
    std::string path;
    std::vector<int> shape;  // with its leading batch of 1
};

struct NetworkFiles {
    std::string param;
    std::string bin;
    std::vector<TensorFile> inputs;
    std::vector<std::string> outputs;  // empty: all that the network has
    std::string manifest;              // with pictures, in place of inputs and outputs
};

// Raw uint8 BGR rows.
struct PictureFile {
    std::string path;
    int height = 0, width = 0;
};

struct Options {
    NetworkFiles model;  // with --pipeline the pose network, with one input a person
    bool pipeline = false;
    NetworkFiles detector;
    int interval = 5;

    std::vector<PictureFile> pictures;  // empty: networks on prepared inputs
    bool find = false;                  // say who is in them, measure nothing
    double score = 0.3;                 // least score of a box
    int people = 0;                     // the best ones only, 0: all

    Precision precision = Precision::fp32;
    int threads = 1;
    std::string cpu_mask;  // hexadecimal without 0x, empty: whatever holds

    int warmup_count = 5;
    double warmup_ms = 200;
    int min_iterations = 50;
    double min_seconds = 1;
    double max_seconds = 60;
    double pause_ms = 0;
    int block_size = 64;
    std::string dump;  // folder, empty: no dump
};

const char* precision_name(Precision precision);

// Throws Failure with Exit::usage; `what` is for the message.
Precision parse_precision(const std::string& what, const std::string& text);

// Throws Failure with Exit::usage.
Options parse_options(const std::vector<std::string>& words);

extern const char kHelp[];

}  // namespace runner
