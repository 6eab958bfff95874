// What the runner can see of the device from inside: CPUs, clocks, memory, time.
#pragma once

#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

namespace runner {

int64_t now_ns();

// Run this thread, and all that it starts from now on, on the CPUs of a hexadecimal mask.
// Throws Failure with Exit::affinity unless exactly these CPUs hold afterwards.
void set_affinity(const std::string& mask);

// The mask that holds for each OpenMP thread of a team of this size.
std::vector<std::string> thread_affinities(int threads);

// Clock of each CPU in kHz, -1 where the system does not say.
std::vector<int64_t> cpu_clocks_khz();

// Peak resident memory in kB, -1 where the system does not say.
int64_t peak_memory_kb();

struct Usage {
    int64_t user_ns, system_ns;
    int64_t involuntary_switches, major_faults;
};
// Of the process so far.
Usage usage();

struct CpuCounts {
    int all, big, little;
};
CpuCounts cpu_counts();

// As ncnn sees them, which decides on the kernels it takes.
std::vector<std::pair<std::string, bool>> cpu_features();
bool has_fp16_arithmetic();

#if defined(__aarch64__)
constexpr bool kIsArm = true;
#else
constexpr bool kIsArm = false;
#endif

// Variables that change how OpenMP behaves, as they are set.
std::vector<std::string> openmp_environment();

}  // namespace runner
