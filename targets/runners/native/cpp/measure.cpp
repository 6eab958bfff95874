#include "measure.h"

#include <errno.h>
#include <time.h>

#include "failure.h"

namespace runner {
namespace {

void rest(double milliseconds) {
    if (milliseconds <= 0) return;
    const int64_t ns = static_cast<int64_t>(milliseconds * 1e6);
    timespec left{static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR && !stop_requested()) {
    }
}

}  // namespace

Measured measure(const std::function<void()>& prepare, const std::function<void(int64_t)>& call,
                 const Options& options, int group) {
    const double most_ns = options.max_seconds * 1e9;
    Measured measured;
    int64_t start = now_ns();
    while (measured.warmup_count < options.warmup_count ||
           measured.warmup_ns < options.warmup_ms * 1e6) {
        throw_if_stopped();
        if (measured.warmup_ns >= most_ns) break;
        prepare();
        call(measured.warmup_count++);
        rest(options.pause_ms);
        measured.warmup_ns = now_ns() - start;
    }

    measured.clocks.push_back({0, 0, cpu_clocks_khz()});
    const Usage before = usage();
    int64_t count = 0, passed = 0;
    start = now_ns();
    while (true) {
        throw_if_stopped();
        measured.complete = count >= options.min_iterations &&
                            passed >= options.min_seconds * 1e9 && count % group == 0;
        if (measured.complete || (count > 0 && passed >= most_ns)) break;
        prepare();
        const int64_t begin = now_ns();
        call(count);
        const int64_t end = now_ns();
        measured.starts_ns.push_back(begin - start);
        measured.samples_ns.push_back(end - begin);
        passed = end - start;
        if (++count % options.block_size == 0)
            measured.clocks.push_back({count, passed, cpu_clocks_khz()});
        rest(options.pause_ms);
    }
    const Usage after = usage();
    measured.usage = {after.user_ns - before.user_ns, after.system_ns - before.system_ns,
                      after.involuntary_switches - before.involuntary_switches,
                      after.major_faults - before.major_faults};
    if (count % options.block_size != 0)
        measured.clocks.push_back({count, passed, cpu_clocks_khz()});
    return measured;
}

}  // namespace runner
