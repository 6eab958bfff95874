// What is compiled in, as JSON. The same text lies in the executable behind a marker, where a host
// that cannot run it finds it.
#pragma once

namespace runner {

// Without the marker: {"runner": ..., "ncnn": ..., "arch": ..., "kernels": [...], ...}
const char* build_info();

}  // namespace runner
