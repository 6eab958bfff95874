// The native half of EdgePose.kt: two networks from the app's assets, people from a Bitmap.
#include <android/asset_manager.h>
#include <android/asset_manager_jni.h>
#include <android/bitmap.h>
#include <jni.h>

#include <memory>
#include <string>
#include <vector>

#define EDGEPOSE_NCNN
#include "edgepose.hpp"

namespace {

// An asset, mapped where it is stored uncompressed and unpacked into memory where it is not.
class Asset {
public:
    Asset(AAssetManager* assets, const std::string& path)
        : asset_(AAssetManager_open(assets, path.c_str(), AASSET_MODE_BUFFER), AAsset_close) {
        data_ = asset_ ? AAsset_getBuffer(asset_.get()) : nullptr;
        if (!data_) throw edgepose::Error(path + ": no such asset in this app");
    }
    const void* data() const { return data_; }
    size_t size() const { return static_cast<size_t>(AAsset_getLength64(asset_.get())); }
    std::string text() const { return {static_cast<const char*>(data_), size()}; }

private:
    std::unique_ptr<AAsset, void (*)(AAsset*)> asset_;
    const void* data_ = nullptr;
};

// A model, and its weights, which ncnn reads where they lie.
class Model {
public:
    Model(AAssetManager* assets, const std::string& name, int threads)
        : folder_("edgepose/" + name + "/"),
          spec_(edgepose::read_manifest(Asset(assets, folder_ + "manifest.json").text())),
          weights_(assets, folder_ + spec_.weights_file),
          network_(spec_, Asset(assets, folder_ + spec_.model_file).text(), weights_.data(),
                   weights_.size(), threads) {}
    const edgepose::Network& network() const { return network_; }

private:
    std::string folder_;
    edgepose::Spec spec_;
    Asset weights_;
    edgepose::Network network_;
};

struct Pipeline {
    Model detector, pose;
};

std::string text_of(JNIEnv* env, jstring text) {
    const char* letters = env->GetStringUTFChars(text, nullptr);
    if (!letters) throw edgepose::Error("not enough memory");
    const std::string copy = letters;
    env->ReleaseStringUTFChars(text, letters);
    return copy;
}

// A Bitmap's pixels, locked as long as this lives.
class Pixels {
public:
    Pixels(JNIEnv* env, jobject bitmap) : env_(env), bitmap_(bitmap) {
        AndroidBitmapInfo info;
        void* data = nullptr;
        if (AndroidBitmap_getInfo(env, bitmap, &info) != ANDROID_BITMAP_RESULT_SUCCESS ||
            info.format != ANDROID_BITMAP_FORMAT_RGBA_8888)
            throw edgepose::Error("a Bitmap must be ARGB_8888, and not HARDWARE");
        if (AndroidBitmap_lockPixels(env, bitmap, &data) != ANDROID_BITMAP_RESULT_SUCCESS)
            throw edgepose::Error("the Bitmap's pixels cannot be read");
        image_ = {static_cast<const uint8_t*>(data), static_cast<int>(info.width),
                  static_cast<int>(info.height), info.stride, edgepose::Pixels::rgba};
    }
    ~Pixels() { AndroidBitmap_unlockPixels(env_, bitmap_); }
    Pixels(const Pixels&) = delete;
    Pixels& operator=(const Pixels&) = delete;
    const edgepose::Image& image() const { return image_; }

private:
    JNIEnv* env_;
    jobject bitmap_;
    edgepose::Image image_;
};

// What goes wrong becomes an IllegalStateException: no C++ exception may pass through Java.
template <typename Result, typename Work>
Result guarded(JNIEnv* env, Result failed, Work work) {
    try {
        return work();
    } catch (const std::exception& error) {
        if (!env->ExceptionCheck())
            env->ThrowNew(env->FindClass("java/lang/IllegalStateException"), error.what());
        return failed;
    }
}

}  // namespace

extern "C" JNIEXPORT jlong JNICALL Java_edgepose_EdgePose_open(JNIEnv* env, jclass, jobject assets,
                                                               jstring detector, jstring pose,
                                                               jint threads) {
    return guarded<jlong>(env, 0, [&] {
        AAssetManager* const manager = AAssetManager_fromJava(env, assets);
        return reinterpret_cast<jlong>(new Pipeline{{manager, text_of(env, detector), threads},
                                                    {manager, text_of(env, pose), threads}});
    });
}

// A person's numbers follow the one before: x1, y1, x2, y2, score, then x, y, score of each
// keypoint.
extern "C" JNIEXPORT jfloatArray JNICALL Java_edgepose_EdgePose_find(JNIEnv* env, jclass,
                                                                     jlong handle, jobject bitmap,
                                                                     jfloat score) {
    return guarded<jfloatArray>(env, nullptr, [&] {
        const auto& pipeline = *reinterpret_cast<const Pipeline*>(handle);
        const Pixels pixels(env, bitmap);
        std::vector<float> values;
        for (const edgepose::Pose& one :
             edgepose::find_poses(pipeline.detector.network(), pipeline.pose.network(),
                                  pixels.image(), score)) {
            values.insert(values.end(),
                          {one.box.x1, one.box.y1, one.box.x2, one.box.y2, one.box.score});
            for (const edgepose::Keypoint& point : one.keypoints)
                values.insert(values.end(), {point.x, point.y, point.score});
        }
        const auto count = static_cast<jsize>(values.size());
        jfloatArray array = env->NewFloatArray(count);
        if (array) env->SetFloatArrayRegion(array, 0, count, values.data());
        return array;
    });
}

extern "C" JNIEXPORT jint JNICALL Java_edgepose_EdgePose_keypoints(JNIEnv*, jclass, jlong handle) {
    const auto& spec = reinterpret_cast<const Pipeline*>(handle)->pose.network().spec();
    return spec.output_shapes[0][0];
}

extern "C" JNIEXPORT void JNICALL Java_edgepose_EdgePose_close(JNIEnv*, jclass, jlong handle) {
    delete reinterpret_cast<Pipeline*>(handle);
}
