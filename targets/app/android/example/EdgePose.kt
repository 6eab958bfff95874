package edgepose

import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.RectF

/** One point in pixels of the image, and how sure the model is of it. */
data class Keypoint(val x: Float, val y: Float, val score: Float)

/** A person: the box in pixels of the image with its score, and the keypoints. */
data class Person(val box: RectF, val score: Float, val keypoints: List<Keypoint>)

/**
 * A detector and a pose model from `assets/edgepose`. Throws IllegalStateException with one line of
 * text where a model is missing or does not fit.
 *
 * Loading takes tens of milliseconds and [find] some more: keep both off the main thread.
 *
 *     EdgePose(context.assets, "rtmdet-nano-demo", "rtmpose-t-demo").use { people ->
 *         for (person in people.find(bitmap)) println(person)
 *     }
 */
class EdgePose(
    // Held, because the native side reads from it as long as it is open.
    private val assets: AssetManager,
    detector: String,
    pose: String,
    threads: Int = 4,
) : AutoCloseable {
    private var handle: Long = open(assets, detector, pose, threads)

    /** The people in an upright ARGB_8888 bitmap whose box scores more than [score], best first. */
    @Synchronized
    fun find(bitmap: Bitmap, score: Float = 0.3f): List<Person> {
        check(handle != 0L) { "this EdgePose is closed" }
        val values = find(handle, bitmap, score)
        return values.toList().chunked(BOX + 3 * keypoints(handle)) { person ->
            Person(
                RectF(person[0], person[1], person[2], person[3]),
                person[4],
                person.drop(BOX).chunked(3) { (x, y, sure) -> Keypoint(x, y, sure) },
            )
        }
    }

    @Synchronized
    override fun close() {
        if (handle != 0L) close(handle)
        handle = 0
    }

    companion object {
        private const val BOX = 5

        init {
            System.loadLibrary("edgepose")
        }

        @JvmStatic
        private external fun open(
            assets: AssetManager,
            detector: String,
            pose: String,
            threads: Int,
        ): Long

        @JvmStatic private external fun find(handle: Long, bitmap: Bitmap, score: Float): FloatArray

        @JvmStatic private external fun keypoints(handle: Long): Int

        @JvmStatic private external fun close(handle: Long)
    }
}
