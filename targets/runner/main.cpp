// edgepose-runner: the latency and the answers of an ncnn network on this device. kHelp in
// options.cpp says what it takes; targets/native.py reads what it prints.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "build_info.h"
#include "cpu.h"
#include "device.h"
#include "failure.h"
#include "json.h"
#include "measure.h"
#include "network.h"
#include "options.h"
#include "outputs.h"

namespace runner {
namespace {

void print(const std::string& line) {
    const std::string text = line + "\n";
    if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0)
        throw Failure{Exit::output, std::string("stdout: ") + strerror(errno)};
}

// One network with what goes in and comes out: with one feed, or with one a person.
struct Part {
    std::unique_ptr<Network> network;
    std::vector<Feeds> feeds;
    std::vector<std::vector<ncnn::Mat>> outputs;

    void run() {
        for (size_t i = 0; i < feeds.size(); i++) network->run(feeds[i], outputs[i]);
    }
    // An application drops the outputs of one image before the next, and so is done here, off the
    // clock. With them goes the memory that they hold in ncnn's pool.
    void forget() {
        for (std::vector<ncnn::Mat>& mats : outputs) mats.clear();
    }
    std::vector<Output> results() const {
        std::vector<Output> all;
        for (const std::vector<ncnn::Mat>& mats : outputs)
            for (Output& output : outputs_of(*network, mats)) all.push_back(std::move(output));
        return all;
    }
};

Part load_part(const NetworkFiles& files, const Options& options, bool one_feed_an_input) {
    Part part;
    NetworkFiles once = files;
    if (one_feed_an_input) once.inputs.resize(1);
    set_phase(Exit::load, "loading the network");
    part.network = std::make_unique<Network>(once, options);
    set_phase(Exit::input, "reading the inputs");
    Feeds feeds;
    for (const TensorFile& input : files.inputs) {
        feeds.push_back(read_input(input));
        if (one_feed_an_input) {
            part.feeds.push_back(std::move(feeds));
            feeds.clear();
        }
    }
    if (!one_feed_an_input) part.feeds.push_back(std::move(feeds));
    part.outputs.resize(part.feeds.size());
    return part;
}

std::string clocks_json(const std::vector<ClockReading>& clocks) {
    std::vector<std::string> readings;
    for (const ClockReading& clock : clocks) {
        std::vector<std::string> khz;
        for (int64_t value : clock.khz) khz.push_back(json_or_null(value));
        JsonObject reading;
        reading.add("samples", clock.samples).add("t_ns", clock.t_ns).raw("khz", json_list(khz));
        readings.push_back(reading.text());
    }
    return json_list(readings);
}

std::string cpu_json() {
    const CpuCounts counts = cpu_counts();
    JsonObject features, cpu;
    for (const auto& [name, present] : cpu_features()) features.add(name.c_str(), present);
    cpu.add("count", counts.all).add("big", counts.big).add("little", counts.little);
    return cpu.raw("features", features.text()).text();
}

// What ncnn makes of a precision on this CPU: x86 widens half floats on loading, an ARM core
// without half-precision arithmetic keeps them in memory and computes in floats.
const char* computes_in(Precision precision) {
    const bool half = precision == Precision::fp16 || precision == Precision::fp16_storage;
    if (!half || has_fp16_arithmetic()) return precision_name(precision);
    return precision_name(kIsArm ? Precision::fp16_storage : Precision::fp32);
}

std::string usage_json(const Usage& used) {
    JsonObject usage;
    usage.add("user_ns", used.user_ns).add("system_ns", used.system_ns);
    usage.add("involuntary_switches", used.involuntary_switches);
    return usage.add("major_faults", used.major_faults).text();
}

void run(const Options& options) {
    ncnn::set_omp_dynamic(0);
    set_phase(Exit::affinity, "setting the CPU mask");
    // Before the first thread of OpenMP, which all inherit it.
    if (!options.cpu_mask.empty()) set_affinity(options.cpu_mask);

    Part detector, model;
    if (options.pipeline) detector = load_part(options.detector, options, false);
    model = load_part(options.model, options, options.pipeline);
    throw_if_stopped();

    set_phase(Exit::inference, "running the network");
    const auto forget = [&] {
        if (options.pipeline) detector.forget();
        model.forget();
    };
    const auto frame = [&](int64_t number) {
        if (options.pipeline && number % options.interval == 0) detector.run();
        model.run();
    };
    const auto results = [&] {
        std::vector<Output> all;
        for (Part* part : {&detector, &model})
            for (Output& output : part->results()) all.push_back(std::move(output));
        return all;
    };
    const int64_t begin = now_ns();
    frame(0);
    const int64_t first_ns = now_ns() - begin;
    std::vector<Output> first = results();
    if (!options.dump.empty()) dump(first, options.dump, 0);
    const std::vector<std::string> affinity = thread_affinities(options.threads);

    const Measured measured =
        measure(forget, frame, options, options.pipeline ? options.interval : 1);
    // The last frame had no detector in it where time ran out: its outputs are gone by then.
    if (options.pipeline && detector.outputs[0].empty()) detector.run();
    const std::vector<Output> last = results();

    JsonObject report;
    report.add("schema", 1).add("kind", "edgepose-runner").raw("build", build_info());
    report.add("precision", precision_name(options.precision));
    report.add("computes_in", computes_in(options.precision));
    report.add("threads", options.threads);
    report.raw("cpu_mask", options.cpu_mask.empty() ? "null" : json(options.cpu_mask));
    report.add("affinity", affinity).add("affinity_after", thread_affinities(options.threads));
    report.raw("cpu", cpu_json()).add("openmp_environment", openmp_environment());
    const int64_t detector_load_ns = options.pipeline ? detector.network->load_ns() : 0;
    report.add("load_ns", detector_load_ns + model.network->load_ns());
    report.add("first_inference_ns", first_ns);
    if (options.pipeline) {
        JsonObject pipeline;
        pipeline.add("interval", options.interval);
        pipeline.add("people", static_cast<int>(options.model.inputs.size()));
        report.raw("pipeline", pipeline.text());
    } else {
        report.raw("pipeline", "null");
    }
    report.add("warmup_count", measured.warmup_count).add("warmup_ns", measured.warmup_ns);
    report.add("complete", measured.complete);
    report.raw("clocks", clocks_json(measured.clocks)).raw("usage", usage_json(measured.usage));
    report.raw("peak_memory_kb", json_or_null(peak_memory_kb()));
    report.raw("outputs", outputs_json(first, last));
    report.add("samples_ns", measured.samples_ns).add("starts_ns", measured.starts_ns);
    print(report.text());
}

int guarded_main(const std::vector<std::string>& words) {
    try {
        if (words.size() == 1 && words[0] == "--help") {
            fputs(kHelp, stdout);
        } else if (words.size() == 1 && words[0] == "--version") {
            print(build_info());
        } else {
            run(parse_options(words));
        }
        return 0;
    } catch (const Failure& failure) {
        say(failure.text);
        return static_cast<int>(failure.code);
    } catch (const Stopped& stopped) {
        say("ended by signal " + std::to_string(stopped.signal));
        return 128 + stopped.signal;
    } catch (const std::bad_alloc&) {
        say("not enough memory");
        return static_cast<int>(Exit::inference);
    }
}

}  // namespace
}  // namespace runner

int main(int argc, char** argv) {
    runner::take_over_stderr_and_signals();
    return runner::guarded_main(std::vector<std::string>(argv + 1, argv + argc));
}
