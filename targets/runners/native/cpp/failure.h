// How the runner ends when it cannot go on: one line on stderr and an exit code that says why.
#pragma once

#include <string>

namespace runner {

enum class Exit : int {
    usage = 2,      // the command line makes no sense
    load = 3,       // the network's files are damaged or hold a layer that ncnn does not know
    input = 4,      // an input or output does not fit the network, or a file its shape
    inference = 5,  // the network failed in running
    affinity = 6,   // the CPU mask cannot be set or does not hold
    output = 7,     // stdout or a dump could not be written
};

struct Failure {
    Exit code;
    std::string text;
};

// SIGINT, SIGTERM or SIGHUP: thrown between two inferences.
struct Stopped {
    int signal;
};

// From here on stderr belongs to the runner: what ncnn and libgomp write there is kept back for
// `library_message`. A crash ends with one line and the exit code of the phase.
void take_over_stderr_and_signals();

// What a crash would be blamed on.
void set_phase(Exit phase, const char* doing);

// Throws Stopped when a signal has asked for the end.
void throw_if_stopped();
bool stop_requested();

// What the library wrote since the last call, its first line only; empty if nothing.
std::string library_message();

// One line on stderr: "edgepose-runner: TEXT".
void say(const std::string& text);

}  // namespace runner
