// Timing a call. Knows nothing of networks.
#pragma once

#include <stdint.h>

#include <functional>
#include <vector>

#include "device.h"
#include "options.h"

namespace runner {

struct ClockReading {
    int64_t samples;  // how many had been taken
    int64_t t_ns;     // since the start of measuring
    std::vector<int64_t> khz;
};

struct Measured {
    int64_t warmup_count = 0, warmup_ns = 0;
    std::vector<int64_t> samples_ns, starts_ns;  // starts since the start of measuring
    std::vector<ClockReading> clocks;            // before the first block of samples, after each
    bool complete = false;                       // false: --max-seconds came first
    Usage usage{};                               // of the measured part
};

// `call` hears the number of the call, which starts at 0 in the warm-up and again in measuring. The
// number of samples is a multiple of `group` unless time runs out. `prepare` runs before each call,
// off the clock. Throws Stopped.
Measured measure(const std::function<void()>& prepare, const std::function<void(int64_t)>& call,
                 const Options& options, int group);

}  // namespace runner
