// edgepose-runner: the latency and the answers of ncnn networks on this device. kHelp in
// options.cpp says what it takes; targets/runners/native/call.py reads what it prints.
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
#include "work.h"

namespace runner {
namespace {

void print(const std::string& line) {
    const std::string text = line + "\n";
    if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0)
        throw Failure{Exit::output, std::string("stdout: ") + strerror(errno)};
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

std::string usage_json(const Usage& used) {
    JsonObject usage;
    usage.add("user_ns", used.user_ns).add("system_ns", used.system_ns);
    usage.add("involuntary_switches", used.involuntary_switches);
    return usage.add("major_faults", used.major_faults).text();
}

void time(Work& work, const Options& options) {
    set_phase(Exit::inference, "running the network");
    const int64_t begin = now_ns();
    work.run(0);
    const int64_t first_ns = now_ns() - begin;
    std::vector<Output> first = work.outputs();
    if (!options.dump.empty()) dump(first, options.dump, 0);
    const std::vector<std::string> affinity = thread_affinities(options.threads);

    const Measured measured = measure([&] { work.forget(); },
                                      [&](int64_t number) { work.run(number); }, options,
                                      work.group());
    const std::vector<Output> last = work.outputs();

    JsonObject report;
    report.add("schema", 1).add("kind", "edgepose-runner").raw("build", build_info());
    report.add("precision", precision_name(work.precision()));
    report.add("computes_in", computes_in(work.precision()));
    report.add("threads", options.threads);
    report.raw("cpu_mask", options.cpu_mask.empty() ? "null" : json(options.cpu_mask));
    report.add("affinity", affinity).add("affinity_after", thread_affinities(options.threads));
    report.raw("cpu", cpu_json()).add("openmp_environment", openmp_environment());
    report.add("load_ns", work.load_ns());
    report.add("first_inference_ns", first_ns);
    report.raw("pipeline", work.pipeline(measured.samples_ns.size()));
    report.add("warmup_count", measured.warmup_count).add("warmup_ns", measured.warmup_ns);
    report.add("complete", measured.complete);
    report.raw("clocks", clocks_json(measured.clocks)).raw("usage", usage_json(measured.usage));
    report.raw("peak_memory_kb", json_or_null(peak_memory_kb()));
    report.raw("outputs", outputs_json(first, last));
    report.add("samples_ns", measured.samples_ns).add("starts_ns", measured.starts_ns);
    print(report.text());
}

void run(const Options& options) {
    ncnn::set_omp_dynamic(0);
    set_phase(Exit::affinity, "setting the CPU mask");
    // Before the first thread of OpenMP, which all inherit it.
    if (!options.cpu_mask.empty()) set_affinity(options.cpu_mask);
    if (options.find) {
        for (const std::string& line : find_people(options)) print(line);
        return;
    }
    const std::unique_ptr<Work> work =
        options.pictures.empty() ? load_networks(options) : load_pictures(options);
    throw_if_stopped();
    time(*work, options);
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
