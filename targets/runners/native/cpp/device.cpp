#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cpu.h"
#include "failure.h"

extern char** environ;

namespace runner {
namespace {

constexpr char kDigits[] = "0123456789abcdef";

cpu_set_t set_of(const std::string& mask) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (size_t i = 0; i < mask.size(); i++) {
        const int digit = static_cast<int>(strchr(kDigits, mask[mask.size() - 1 - i]) - kDigits);
        for (int bit = 0; bit < 4; bit++)
            if (digit & (1 << bit)) CPU_SET(4 * i + static_cast<size_t>(bit), &cpus);
    }
    return cpus;
}

// Of the calling thread; empty where the kernel does not say.
std::string current_mask() {
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) return "";
    std::string mask;
    for (int i = CPU_SETSIZE / 4 - 1; i >= 0; i--) {
        int digit = 0;
        for (int bit = 0; bit < 4; bit++)
            digit |= CPU_ISSET(static_cast<size_t>(4 * i + bit), &cpus) ? 1 << bit : 0;
        if (digit != 0 || !mask.empty()) mask += kDigits[digit];
    }
    return mask;
}

int64_t nanoseconds(const timeval& time) {
    return time.tv_sec * 1000000000LL + time.tv_usec * 1000LL;
}

}  // namespace

int64_t now_ns() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

void set_affinity(const std::string& mask) {
    const cpu_set_t cpus = set_of(mask);
    const std::string before = current_mask();
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0)
        throw Failure{Exit::affinity, "the CPU mask " + mask + " cannot be set (" +
                                          strerror(errno) + "); the CPUs at hand are " + before};
    // Some kernels take a mask and keep to another one.
    const std::string now = current_mask();
    if (now != mask)
        throw Failure{Exit::affinity, "the CPU mask " + mask + " does not hold: it became " + now};
}

std::vector<std::string> thread_affinities(int threads) {
    std::vector<std::string> masks(static_cast<size_t>(threads));
    int running = 1;
    // ncnn's names for the functions of omp.h, which not every compiler brings.
#pragma omp parallel num_threads(threads)
    {
        const int number = ncnn::get_omp_thread_num();
        masks[static_cast<size_t>(number)] = current_mask();
        if (number == 0) running = ncnn::get_omp_num_threads();
    }
    masks.resize(static_cast<size_t>(running));
    return masks;
}

std::vector<int64_t> cpu_clocks_khz() {
    std::vector<int64_t> clocks;
    const long count = sysconf(_SC_NPROCESSORS_CONF);
    for (long i = 0; i < count; i++) {
        char path[96], text[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%ld/cpufreq/scaling_cur_freq", i);
        clocks.push_back(-1);
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;
        const ssize_t size = read(file, text, sizeof text - 1);
        close(file);
        if (size <= 0) continue;
        text[size] = 0;
        char* end = nullptr;
        const long long khz = strtoll(text, &end, 10);
        if (end != text && khz > 0) clocks.back() = khz;
    }
    return clocks;
}

int64_t peak_memory_kb() {
    FILE* file = fopen("/proc/self/status", "re");
    if (!file) return -1;
    char line[256];
    long long kilobytes = -1;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) break;
    fclose(file);
    return kilobytes;
}

Usage usage() {
    struct rusage now = {};
    getrusage(RUSAGE_SELF, &now);
    return {nanoseconds(now.ru_utime), nanoseconds(now.ru_stime), now.ru_nivcsw, now.ru_majflt};
}

CpuCounts cpu_counts() {
    return {ncnn::get_cpu_count(), ncnn::get_big_cpu_count(), ncnn::get_little_cpu_count()};
}

std::vector<std::pair<std::string, bool>> cpu_features() {
#if defined(__aarch64__)
    return {
        {"asimdhp", ncnn::cpu_support_arm_asimdhp() != 0},
        {"asimddp", ncnn::cpu_support_arm_asimddp() != 0},
        {"asimdfhm", ncnn::cpu_support_arm_asimdfhm() != 0},
        {"bf16", ncnn::cpu_support_arm_bf16() != 0},
        {"i8mm", ncnn::cpu_support_arm_i8mm() != 0},
        {"sve", ncnn::cpu_support_arm_sve() != 0},
        {"sve2", ncnn::cpu_support_arm_sve2() != 0},
    };
#else
    return {
        {"avx", ncnn::cpu_support_x86_avx() != 0},
        {"fma", ncnn::cpu_support_x86_fma() != 0},
        {"f16c", ncnn::cpu_support_x86_f16c() != 0},
        {"avx2", ncnn::cpu_support_x86_avx2() != 0},
        {"avx_vnni", ncnn::cpu_support_x86_avx_vnni() != 0},
        {"avx512", ncnn::cpu_support_x86_avx512() != 0},
        {"avx512_vnni", ncnn::cpu_support_x86_avx512_vnni() != 0},
        {"avx512_bf16", ncnn::cpu_support_x86_avx512_bf16() != 0},
    };
#endif
}

bool has_fp16_arithmetic() {
#if defined(__aarch64__) && NCNN_ARM82
    return ncnn::cpu_support_arm_asimdhp() != 0;
#else
    return false;
#endif
}

std::vector<std::string> openmp_environment() {
    std::vector<std::string> set;
    for (char** entry = environ; *entry; entry++)
        for (const char* prefix : {"OMP_", "GOMP_", "KMP_"})
            if (strncmp(*entry, prefix, strlen(prefix)) == 0) set.emplace_back(*entry);
    return set;
}

}  // namespace runner
