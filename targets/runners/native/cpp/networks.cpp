// Networks on prepared inputs.
#include "failure.h"
#include "json.h"
#include "network.h"
#include "work.h"

namespace runner {
namespace {

// One network with what goes in and comes out: with one feed, or with one a person.
struct Part {
    std::unique_ptr<Network> network;
    std::vector<Feeds> feeds;
    std::vector<std::vector<ncnn::Mat>> outputs;

    void run() {
        for (size_t i = 0; i < feeds.size(); i++) network->run(feeds[i], outputs[i]);
    }
    void forget() {
        for (std::vector<ncnn::Mat>& mats : outputs) mats.clear();
    }
    void append_outputs(std::vector<Output>& all) const {
        for (const std::vector<ncnn::Mat>& mats : outputs)
            for (Output& output : outputs_of(*network, mats)) all.push_back(std::move(output));
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

class Networks : public Work {
public:
    explicit Networks(const Options& options) : options_(options) {
        if (options.pipeline) detector_ = load_part(options.detector, options, false);
        model_ = load_part(options.model, options, options.pipeline);
    }

    void run(int64_t number) override {
        if (options_.pipeline && number % options_.interval == 0) detector_.run();
        model_.run();
    }
    void forget() override {
        detector_.forget();
        model_.forget();
    }
    std::vector<Output> outputs() override {
        if (options_.pipeline && detector_.outputs[0].empty()) detector_.run();
        std::vector<Output> all;
        if (options_.pipeline) detector_.append_outputs(all);
        model_.append_outputs(all);
        return all;
    }

    int group() const override { return options_.pipeline ? options_.interval : 1; }
    Precision precision() const override { return options_.precision; }
    int64_t load_ns() const override {
        return model_.network->load_ns() + (options_.pipeline ? detector_.network->load_ns() : 0);
    }
    std::string pipeline(size_t) const override {
        if (!options_.pipeline) return "null";
        JsonObject pipeline;
        pipeline.add("interval", options_.interval);
        return pipeline.add("people", static_cast<int>(model_.feeds.size())).text();
    }

private:
    Options options_;
    Part detector_, model_;
};

}  // namespace

std::unique_ptr<Work> load_networks(const Options& options) {
    return std::make_unique<Networks>(options);
}

}  // namespace runner
