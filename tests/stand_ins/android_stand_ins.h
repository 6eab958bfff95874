// What the JNI example uses of the NDK, on files: assets below ASSETS, the Bitmap in BITMAP, of
// BITMAP_WIDTH x BITMAP_HEIGHT pixels in RGBA. Types and results as in the NDK's documentation.
#pragma once

#include <jni.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

struct AAssetManager {};
struct AAsset {
    std::string bytes;
};
struct AndroidBitmapInfo {
    uint32_t width, height, stride;
    int32_t format;
    uint32_t flags;
};
enum { AASSET_MODE_BUFFER = 3 };
enum { ANDROID_BITMAP_RESULT_SUCCESS = 0, ANDROID_BITMAP_FORMAT_RGBA_8888 = 1 };

inline int opened_assets = 0;
inline int locked_bitmaps = 0;

inline bool stand_in_read(const std::string& path, std::string& bytes) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    return true;
}

inline AAssetManager* AAssetManager_fromJava(JNIEnv*, jobject) {
    static AAssetManager manager;
    return &manager;
}
inline AAsset* AAssetManager_open(AAssetManager*, const char* name, int) {
    AAsset asset;
    if (!stand_in_read(std::string(getenv("ASSETS")) + "/" + name, asset.bytes)) return nullptr;
    opened_assets++;
    return new AAsset(asset);
}
inline const void* AAsset_getBuffer(AAsset* asset) { return asset->bytes.data(); }
inline int64_t AAsset_getLength64(AAsset* asset) {
    return static_cast<int64_t>(asset->bytes.size());
}
inline void AAsset_close(AAsset* asset) {
    opened_assets--;
    delete asset;
}

inline int AndroidBitmap_getInfo(JNIEnv*, jobject, AndroidBitmapInfo* info) {
    const uint32_t width = static_cast<uint32_t>(atoi(getenv("BITMAP_WIDTH")));
    const uint32_t height = static_cast<uint32_t>(atoi(getenv("BITMAP_HEIGHT")));
    *info = {width, height, 4 * width, ANDROID_BITMAP_FORMAT_RGBA_8888, 0};
    return ANDROID_BITMAP_RESULT_SUCCESS;
}
inline int AndroidBitmap_lockPixels(JNIEnv*, jobject, void** pixels) {
    static std::string bytes;
    stand_in_read(getenv("BITMAP"), bytes);
    *pixels = bytes.data();
    locked_bitmaps++;
    return ANDROID_BITMAP_RESULT_SUCCESS;
}
inline int AndroidBitmap_unlockPixels(JNIEnv*, jobject) {
    locked_bitmaps--;
    return ANDROID_BITMAP_RESULT_SUCCESS;
}

// What is still held, for the test: 0 after everything was closed.
extern "C" JNIEXPORT jint JNICALL Java_edgepose_EdgePose_held(JNIEnv*, jclass) {
    return opened_assets + locked_bitmaps;
}
