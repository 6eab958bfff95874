#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <set>

#include "failure.h"

namespace runner {

const char kHelp[] =
    R"(edgepose-runner: latency of an ncnn network on this device

  --param FILE --bin FILE       the network
  --input NAME=FILE:1x3x256x192 raw little-endian float32 for one input; once for each of them
  --outputs A,B                 what to extract, in this order (all that the network has)
  --precision P                 fp32 (default), fp16, fp16-storage or bf16
  --threads N                   (1)
  --cpu-mask HEX                run on these CPUs; f0 means CPUs 4 to 7 (wherever the system likes)
  --warmup-count N --warmup-ms T  warm up until both are reached (5, 200)
  --min-iterations N --min-seconds T  measure until both are reached (50, 1); 0 and 0: the first
                                inference only
  --max-seconds T               and never longer than this, the warm-up and the measuring each (60)
  --pause-ms T                  rest between two inferences (0)
  --block-size N                read the CPUs' clocks after every N samples (64)
  --dump DIR                    write the outputs of the first inference as raw float32 files

  --pipeline                    one sample is one frame: the detector in every --interval'th frame,
                                the pose network on each of the people in every frame. Network time
                                alone, on prepared inputs: no crop, letterbox or decoding.
  --det-param FILE --det-bin FILE --det-input NAME=FILE:SHAPE --det-outputs A,B
  --interval N                  (5, as in the RTMPose project's pipeline figures)
                                and one --input a person, all with the same name

  --picture FILE:480x640        instead of --input, --outputs and --precision: from pixels to people,
                                with letterbox, decoding, suppression and crops. Raw uint8 BGR of
                                this height and width. --det-param, --det-bin and --interval as
                                above, or none of them: the picture is then one box.
  --manifest FILE --det-manifest FILE  the models' manifest.json: spec and arithmetic
  --score T                     least score of a box (0.3)
  --people N                    the best N only, of those that are found (all)
  --find                        one line of JSON a picture, with its people, and nothing measured;
                                takes --picture any number of times

  --version                     what is compiled in, as one line of JSON
  --help

One line of JSON goes to stdout, with every sample in nanoseconds of CLOCK_MONOTONIC. A failure is
one line on stderr. Exit codes: 0 done, 2 command line, 3 network files, 4 inputs or outputs that do
not fit, 5 inference failed, 6 the CPU mask does not hold, 7 an output cannot be written,
128 + N ended by signal N.
)";

namespace {

[[noreturn]] void refuse(const std::string& text) {
    throw Failure{Exit::usage, text + "; see --help"};
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    for (char letter : text) {
        if (letter == separator)
            parts.emplace_back();
        else
            parts.back() += letter;
    }
    return parts;
}

int parse_count(const std::string& option, const std::string& text, int least, int most) {
    errno = 0;
    char* end = nullptr;
    const long value = strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != 0 || errno != 0 || value < least || value > most)
        refuse(option + " takes a whole number of " + std::to_string(least) + " to " +
               std::to_string(most) + ", not '" + text + "'");
    return static_cast<int>(value);
}

double parse_score(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = strtod(text.c_str(), &end);
    if (text.empty() || *end != 0 || !(value >= 0 && value <= 1))
        refuse(option + " takes a score of 0 to 1, not '" + text + "'");
    return value;
}

double parse_time(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = strtod(text.c_str(), &end);
    // Beyond a year it is a slip, and nanoseconds would overflow.
    if (text.empty() || *end != 0 || !(value >= 0 && value <= 3.2e10))
        refuse(option + " takes a time of 0 or more, not '" + text + "'");
    return value;
}

TensorFile parse_input(const std::string& option, const std::string& text) {
    const size_t equals = text.find('=');
    const size_t colon = text.rfind(':');
    if (equals == std::string::npos || equals == 0 || colon == std::string::npos ||
        colon <= equals + 1)
        refuse(option + " takes NAME=FILE:1x3x256x192, not '" + text + "'");
    TensorFile input{text.substr(0, equals), text.substr(equals + 1, colon - equals - 1), {}};
    long long count = 1;
    for (const std::string& size : split(text.substr(colon + 1), 'x')) {
        input.shape.push_back(parse_count(option + "'s shape", size, 1, 1 << 24));
        count *= input.shape.back();
        if (count > (1LL << 28)) refuse(option + "'s shape is beyond a gigabyte");
    }
    if (input.shape[0] != 1 || input.shape.size() < 2 || input.shape.size() > 5)
        refuse(option + "'s shape must have a leading batch of 1 and 1 to 4 more sizes, not '" +
               text.substr(colon + 1) + "'");
    return input;
}

std::vector<std::string> parse_names(const std::string& option, const std::string& text) {
    std::vector<std::string> names = split(text, ',');
    for (const std::string& name : names) {
        if (name.empty())
            refuse(option + " takes names with commas between them, not '" + text + "'");
        if (std::count(names.begin(), names.end(), name) > 1)
            refuse(option + " names '" + name + "' twice");
    }
    return names;
}

PictureFile parse_picture(const std::string& option, const std::string& text) {
    const size_t colon = text.rfind(':');
    const std::vector<std::string> sizes =
        split(colon == std::string::npos ? "" : text.substr(colon + 1), 'x');
    if (sizes.size() != 2 || colon == 0)
        refuse(option + " takes FILE:480x640 (height x width), not '" + text + "'");
    const int height = parse_count(option + "'s height", sizes[0], 1, 1 << 15);
    return {text.substr(0, colon), height, parse_count(option + "'s width", sizes[1], 1, 1 << 15)};
}

std::string parse_mask(const std::string& text) {
    std::string digits = text.substr(0, 2) == "0x" ? text.substr(2) : text;
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
    for (char& letter : digits) {
        if (letter >= 'A' && letter <= 'F') letter = static_cast<char>(letter - 'A' + 'a');
        if (!((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f')))
            refuse("--cpu-mask takes hexadecimal digits, not '" + text + "'");
    }
    if (digits.empty() || digits.size() > 256)
        refuse("--cpu-mask needs at least one of the CPUs 0 to 1023, not '" + text + "'");
    return digits;
}

// True if the option was one of a network's.
bool take_network_option(NetworkFiles& network, const std::string& prefix,
                         const std::string& option, const std::string& value) {
    if (option == prefix + "param")
        network.param = value;
    else if (option == prefix + "bin")
        network.bin = value;
    else if (option == prefix + "input")
        network.inputs.push_back(parse_input(option, value));
    else if (option == prefix + "outputs")
        network.outputs = parse_names(option, value);
    else if (option == prefix + "manifest")
        network.manifest = value;
    else
        return false;
    return true;
}

bool take_option(Options& options, const std::string& option, const std::string& value) {
    constexpr int kMany = 1000 * 1000 * 1000;
    if (option == "--precision")
        options.precision = parse_precision(option, value);
    else if (option == "--threads")
        options.threads = parse_count(option, value, 1, 1024);
    else if (option == "--cpu-mask")
        options.cpu_mask = parse_mask(value);
    else if (option == "--warmup-count")
        options.warmup_count = parse_count(option, value, 0, kMany);
    else if (option == "--warmup-ms")
        options.warmup_ms = parse_time(option, value);
    else if (option == "--min-iterations")
        options.min_iterations = parse_count(option, value, 0, kMany);
    else if (option == "--min-seconds")
        options.min_seconds = parse_time(option, value);
    else if (option == "--max-seconds")
        options.max_seconds = parse_time(option, value);
    else if (option == "--pause-ms")
        options.pause_ms = parse_time(option, value);
    else if (option == "--block-size")
        options.block_size = parse_count(option, value, 1, kMany);
    else if (option == "--interval")
        options.interval = parse_count(option, value, 1, kMany);
    else if (option == "--picture")
        options.pictures.push_back(parse_picture(option, value));
    else if (option == "--score")
        options.score = parse_score(option, value);
    else if (option == "--people")
        options.people = parse_count(option, value, 1, kMany);
    else if (option == "--dump")
        options.dump = value;
    else
        return take_network_option(options.model, "--", option, value) ||
               take_network_option(options.detector, "--det-", option, value);
    return true;
}

void check_network(const NetworkFiles& network, const std::string& prefix, bool one_name) {
    if (network.param.empty() || network.bin.empty() || network.inputs.empty())
        refuse(prefix + "param, " + prefix + "bin and " + prefix + "input are needed");
    std::set<std::string> names;
    for (const TensorFile& input : network.inputs) names.insert(input.name);
    if (one_name && names.size() != 1)
        refuse("with --pipeline every --input is one person's, all of the same name");
    if (!one_name && names.size() != network.inputs.size())
        refuse("two of " + prefix + "input have the same name");
}

void check_networks(const Options& options, const std::set<std::string>& seen) {
    check_network(options.model, "--", options.pipeline);
    for (const char* option : {"--find", "--score", "--people", "--manifest", "--det-manifest"})
        if (seen.count(option)) refuse(std::string(option) + " is for --picture");
    if (options.pipeline)
        check_network(options.detector, "--det-", false);
    else if (seen.count("--interval") || !options.detector.inputs.empty() ||
             !options.detector.param.empty() || !options.detector.bin.empty() ||
             !options.detector.outputs.empty())
        refuse("--interval and --det-... are for --pipeline and --picture");
}

void check_pictures(const Options& options, const std::set<std::string>& seen) {
    const NetworkFiles &model = options.model, &detector = options.detector;
    for (const char* option : {"--pipeline", "--input", "--det-input", "--outputs", "--det-outputs",
                               "--precision", "--dump"})
        if (seen.count(option)) refuse(std::string(option) + " is not for --picture");
    if (model.param.empty() || model.bin.empty() || model.manifest.empty())
        refuse("with --picture --param, --bin and --manifest are needed");
    const bool whole = !detector.param.empty() && !detector.bin.empty() && !detector.manifest.empty();
    if (!whole && !(detector.param.empty() && detector.bin.empty() && detector.manifest.empty()))
        refuse("--det-param, --det-bin and --det-manifest belong together");
    for (const char* option : {"--interval", "--score", "--people"})
        if (!whole && seen.count(option)) refuse(std::string(option) + " needs a detector");
    if (!options.find && options.pictures.size() > 1)
        refuse("one --picture is measured; --find takes several");
}

}  // namespace

const char* precision_name(Precision precision) {
    switch (precision) {
        case Precision::fp16: return "fp16";
        case Precision::fp16_storage: return "fp16-storage";
        case Precision::bf16: return "bf16";
        default: return "fp32";
    }
}

Precision parse_precision(const std::string& what, const std::string& text) {
    for (Precision precision :
         {Precision::fp32, Precision::fp16, Precision::fp16_storage, Precision::bf16})
        if (text == precision_name(precision)) return precision;
    refuse(what + " is fp32, fp16, fp16-storage or bf16, not '" + text + "'");
}

Options parse_options(const std::vector<std::string>& words) {
    Options options;
    std::set<std::string> seen;
    for (size_t i = 0; i < words.size(); i++) {
        const std::string& option = words[i];
        const bool many = option == "--input" || option == "--det-input" || option == "--picture";
        if (!seen.insert(option).second && !many) refuse(option + " is given twice");
        if (option == "--pipeline" || option == "--find") {
            (option == "--find" ? options.find : options.pipeline) = true;
            continue;
        }
        if (i + 1 == words.size()) {
            refuse("'" + option + "' is unknown or lacks its value");
        }
        if (!take_option(options, option, words[++i])) refuse("unknown option '" + option + "'");
    }
    if (options.pictures.empty())
        check_networks(options, seen);
    else
        check_pictures(options, seen);
    if (options.max_seconds < options.min_seconds)
        refuse("--max-seconds is below --min-seconds");
    if (seen.count("--dump") && options.dump.empty()) refuse("--dump needs a folder");
    return options;
}

}  // namespace runner
