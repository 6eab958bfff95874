// What one sample is: networks on prepared inputs, or a picture's way from pixels to people.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "options.h"
#include "outputs.h"

namespace runner {

class Work {
public:
    virtual ~Work() = default;

    // One sample; `number` starts at 0 in the warm-up and again in measuring.
    virtual void run(int64_t number) = 0;
    // Drop what the last sample left. An application drops the outputs of one image before the
    // next, and so is done here, off the clock; with them goes the memory that they hold in ncnn's
    // pool.
    virtual void forget() = 0;
    // What the last sample left, and, of a detector that it did not run, the same made once more.
    virtual std::vector<Output> outputs() = 0;

    // The number of samples is a multiple of it.
    virtual int group() const = 0;
    virtual Precision precision() const = 0;
    virtual int64_t load_ns() const = 0;
    // JSON of what `samples` samples were made of, null for one network.
    virtual std::string pipeline(size_t samples) const = 0;
};

// Networks on prepared inputs. Both throw Failure with Exit::load or Exit::input.
std::unique_ptr<Work> load_networks(const Options& options);

// Pictures: letterbox, detector, decoding, suppression, crops, pose network, decoding.
std::unique_ptr<Work> load_pictures(const Options& options);

// One line of JSON a picture: the people in it.
std::vector<std::string> find_people(const Options& options);

}  // namespace runner
