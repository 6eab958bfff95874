#include "failure.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

namespace runner {
namespace {

constexpr char kName[] = "edgepose-runner: ";

int g_stderr = 2;     // the real one
int g_messages = -1;  // read end of what libraries write to stderr
volatile sig_atomic_t g_stop = 0;
volatile sig_atomic_t g_exit = static_cast<int>(Exit::usage);
const char* volatile g_doing = "starting";

void write_all(int fd, const char* text, size_t size) {
    while (size > 0) {
        const ssize_t done = write(fd, text, size);
        if (done <= 0) return;
        text += done;
        size -= static_cast<size_t>(done);
    }
}

void on_stop(int signal_number) { g_stop = signal_number; }

// Only what is allowed in a signal handler: no allocation, no stdio.
void on_crash(int signal_number) {
    const char* name = signal_number == SIGSEGV  ? "SIGSEGV"
                       : signal_number == SIGBUS ? "SIGBUS"
                       : signal_number == SIGILL ? "SIGILL, an instruction this CPU does not have"
                       : signal_number == SIGFPE ? "SIGFPE"
                                                 : "SIGABRT";
    const char* parts[] = {kName, "crashed (", name, ") while ", g_doing, "\n"};
    for (const char* part : parts) write_all(g_stderr, part, strlen(part));
    _exit(g_exit);
}

void handle(int signal_number, void (*handler)(int), int flags) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, nullptr);
}

}  // namespace

void take_over_stderr_and_signals() {
    // Without room in the pipe a message is lost, never waited for.
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
        const int own = fcntl(2, F_DUPFD_CLOEXEC, 3);
        if (own >= 0 && dup2(ends[1], 2) == 2) {
            g_stderr = own;
            g_messages = ends[0];
        }
        close(ends[1]);
    }
    // A stack of its own, for a crash that is an overflow of the other one.
    static char stack[64 * 1024];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    for (int signal_number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
        handle(signal_number, on_crash, SA_ONSTACK | static_cast<int>(SA_RESETHAND));
    // The second one ends a runner that does not come out of its inference.
    for (int signal_number : {SIGINT, SIGTERM, SIGHUP})
        handle(signal_number, on_stop, static_cast<int>(SA_RESETHAND));
    handle(SIGPIPE, SIG_IGN, 0);
}

void set_phase(Exit phase, const char* doing) {
    g_exit = static_cast<int>(phase);
    g_doing = doing;
}

bool stop_requested() { return g_stop != 0; }

void throw_if_stopped() {
    if (g_stop != 0) throw Stopped{g_stop};
}

std::string library_message() {
    if (g_messages < 0) return "";
    std::string text;
    char block[4096];
    ssize_t size;
    while ((size = read(g_messages, block, sizeof block)) > 0)
        text.append(block, static_cast<size_t>(size));
    const size_t first = text.find_first_not_of("\r\n ");
    if (first == std::string::npos) return "";
    return text.substr(first, text.find_first_of("\r\n", first) - first);
}

void say(const std::string& text) {
    std::string line = kName + text;
    for (char& letter : line)
        if (letter == '\n' || letter == '\r') letter = ' ';
    line += '\n';
    write_all(g_stderr, line.data(), line.size());
}

}  // namespace runner
