// Writing JSON, as much of it as the report needs.
#pragma once

#include <stdio.h>

#include <string>
#include <vector>

namespace runner {

inline std::string json(const std::string& text) {
    std::string quoted = "\"";
    for (char letter : text) {
        const unsigned char code = static_cast<unsigned char>(letter);
        if (letter == '"' || letter == '\\') {
            quoted += '\\';
            quoted += letter;
        } else if (code < 0x20) {
            char escape[8];
            snprintf(escape, sizeof escape, "\\u%04x", code);
            quoted += escape;
        } else {
            quoted += letter;
        }
    }
    return quoted + "\"";
}

inline std::string json(const char* text) { return json(std::string(text)); }
inline std::string json(bool value) { return value ? "true" : "false"; }
inline std::string json(int value) { return std::to_string(value); }
inline std::string json(long value) { return std::to_string(value); }
inline std::string json(long long value) { return std::to_string(value); }

// Items that are JSON already.
inline std::string json_list(const std::vector<std::string>& items) {
    std::string text = "[";
    for (const std::string& item : items) text += (text.size() > 1 ? "," : "") + item;
    return text + "]";
}

template <typename T>
std::string json(const std::vector<T>& values) {
    std::vector<std::string> items;
    items.reserve(values.size());
    for (const T& value : values) items.push_back(json(value));
    return json_list(items);
}

// A value that the system may not have given.
inline std::string json_or_null(long long value) { return value < 0 ? "null" : json(value); }

class JsonObject {
public:
    // `value` is JSON already.
    JsonObject& raw(const char* key, const std::string& value) {
        text_ += (text_.size() > 1 ? "," : "") + json(key) + ":" + value;
        return *this;
    }
    template <typename T>
    JsonObject& add(const char* key, const T& value) {
        return raw(key, json(value));
    }
    std::string text() const { return text_ + "}"; }

private:
    std::string text_ = "{";
};

}  // namespace runner
