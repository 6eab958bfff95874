// Keeps edgepose's assets uncompressed in the APK, so that the weights are mapped and not unpacked
// into memory. For the app's build.gradle.kts (Android Gradle Plugin 7.1 or newer):
// merge this block into the `android` block that is there.
android {
    androidResources {
        noCompress += listOf(@ENDINGS@)
    }
}

// The assets themselves, with edgepose-assets.aar in the folder libs of the app's module.
dependencies {
    implementation(files("libs/edgepose-assets.aar"))
}
