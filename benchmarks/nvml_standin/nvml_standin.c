/*
 * A stand-in for libnvidia-ml.so.1: simulated GPUs, by default one, whose power is an exact function of
 * CLOCK_MONOTONIC, read through a real sensor's windows, update periods, delays and call costs.
 *
 * Any program that finds this file as libnvidia-ml.so.1 (LD_LIBRARY_PATH) reads this GPU. The
 * waveform is in the text file named by JOULELAB_STANDIN, a setting a line:
 *
 *   point T_S POWER_W      straight lines between points; the first at 0, the last at the period
 *   gain 1.0               what the sensor gives over what is true
 *   noise_w 0.0            standard deviation of independent noise on each power value
 *   update_phase_s 0.037   when the values that are new each 100 ms are new
 *   ring_phase_s 0.0071    when the values that are new each 20 ms are new
 *   stamp_delay_s 0.0      how long after the end of its window a reading of the ring is stamped
 *   stamp_jitter_s 0.0     standard deviation of those stamps about their grid, cut at 1.8 of it
 *   busy 1                 calls take their time on the processor (1) or asleep (0)
 *   may_set 0              limits and clocks can be set (1), or are refused as without root (0)
 *   has_controls 1         limits and clocks are supported (1), or not (0)
 *   limit_w 700            the power limit before anything is set
 *   idle_w 60              the part of the power that clocks do not change
 *   gpus 1                 how many equal GPUs there are, all of this power
 *
 * Limits and clocks that are set have an effect from then on, in every process, since they are in
 * the file JOULELAB_STANDIN with ".controls" added: a line "T_S LIMIT_MW CLOCK_MHZ MEMORY_MHZ" a
 * change. What is asked for, also if it is refused, is in the file with ".requests" added. The
 * waveform is the power at the highest clock: above idle, power follows the cube of the clock, and
 * the clock is the highest that keeps the power limit. nvmlDeviceGetClockInfo returns it, so that a
 * program can simulate work at its speed.
 *
 * Figures of the sensor, measured on an H100 80GB HBM3, driver 580.159:
 *
 *   nvmlDeviceGetPowerUsage, field 185     mean of the last 1 s, new each 100 ms, 2 us a call
 *   field 186                              mean of the last 25 ms, new each 100 ms, 7 us a call
 *   total energy, field 83                 mJ, new each 100 ms, 4 ms a call
 *   nvmlDeviceGetSamples, total power      120 readings, one each 20 ms, wall-clock stamps in us,
 *                                          mean of the 20 ms before; 0.6 ms a call
 *
 * Whether those 4 ms and 0.6 ms were spent on the processor was not measured; on the processor is
 * the worse case for a tool's processor time, and the default. Temperature, clocks, memory and
 * utilisation are those of no experiment. What is not here is NVML_ERROR_NOT_SUPPORTED, or absent.
 * Structures and codes follow NVIDIA's public NVML API reference (version 12).
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9
};
enum { VALUE_UINT = 1, VALUE_ULONGLONG = 3 };
enum { FIELD_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { SAMPLES_TOTAL_POWER = 0 };

typedef int ret_t;
typedef void *device_t;
typedef union {
    double d;
    unsigned int ui;
    unsigned long ul;
    unsigned long long ull;
    long long sll;
} value_t;
typedef struct {
    unsigned long long time_us;
    value_t value;
} sample_t;
typedef struct {
    unsigned int field_id, scope_id;
    long long timestamp_us, latency_us;
    unsigned int value_type;
    ret_t status;
    value_t value;
} field_t;
typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_t;
typedef struct {
    unsigned long long total, free, used;
} memory_t;
typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;
typedef struct {
    unsigned int version, sensor;
    int temperature;
} temperature_t;
typedef struct {
    unsigned int gpu, memory;
} utilization_t;

static const double UPDATE_S = 0.1, AVERAGE_S = 1.0, INSTANT_S = 0.025, RING_S = 0.02;
static const double LONGEST_JITTER = 1.8;
enum { RING_LENGTH = 120, MOST_POINTS = 4096 };
static const double POWER_CALL_S = 2e-6, FIELD_CALL_S = 7e-6, ENERGY_CALL_S = 4e-3,
                    SAMPLES_CALL_S = 0.6e-3;
static const unsigned int LIMIT_MW = 700000, LOWEST_LIMIT_MW = 200000;
static const unsigned int CLOCK_MHZ = 1980, LOWEST_CLOCK_MHZ = 345, CLOCK_STEP_MHZ = 15;
static const unsigned int MEMORY_CLOCKS_MHZ[] = {2619, 1593};
enum { MEMORY_CLOCKS = 2, CLOCK_MEMORY = 2, MOST_CHANGES = 65536 };
static const unsigned long long MEMORY_BYTES = 80ULL << 30, MEMORY_USED_BYTES = 1ULL << 30;
static const char *UUID = "GPU-5a7d1e00-0000-4000-8000-%012d";
static const char *BUS_ID = "00000000:%02x:00.0";
static const char *GPU_NAME = "NVIDIA H100 80GB HBM3 (stand-in)";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
enum { MOST_GPUS = 16 };
static char devices[MOST_GPUS];
static int points;
static double time_s[MOST_POINTS], power_w[MOST_POINTS], energy_j[MOST_POINTS];
static double gain, noise_w, update_phase_s, ring_phase_s, stamp_delay_s, stamp_jitter_s, busy;
static double wall_minus_monotonic_s;
static double may_set, has_controls, limit_w, idle_w, gpus;

typedef struct {
    double t_s, energy_j; /* since when, and the energy up to then */
    unsigned int limit_mw, clock_mhz, memory_mhz;
} change_t;
static change_t changes[MOST_CHANGES];
static int change_count;
static long changes_read;

/* Clocks. */

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void take(double duration_s) {
    if (!busy) {
        struct timespec wait = {(time_t)duration_s, (long)(fmod(duration_s, 1.0) * 1e9)};
        nanosleep(&wait, NULL);
        return;
    }
    double until_s = seconds(CLOCK_MONOTONIC) + duration_s;
    while (seconds(CLOCK_MONOTONIC) < until_s) {
    }
}

/* Wall minus monotonic, of the try in which the least time passed between the two. */
static double wall_now_s(void) {
    double offset_s = 0, least_s = 1e9;
    for (int i = 0; i < 5; i++) {
        double before_s = seconds(CLOCK_MONOTONIC);
        double wall_s = seconds(CLOCK_REALTIME);
        double took_s = seconds(CLOCK_MONOTONIC) - before_s;
        if (took_s < least_s) {
            least_s = took_s;
            offset_s = wall_s - before_s - took_s / 2;
        }
    }
    return offset_s;
}

/* The same, held still so that a reading keeps its stamp, until the wall is set. */
static double wall_offset_s(void) {
    double offset_s = wall_now_s();
    pthread_mutex_lock(&lock);
    if (fabs(offset_s - wall_minus_monotonic_s) > 1e-3) wall_minus_monotonic_s = offset_s;
    offset_s = wall_minus_monotonic_s;
    pthread_mutex_unlock(&lock);
    return offset_s;
}

/* The waveform. */

static ret_t load(void) {
    const char *path = getenv("JOULELAB_STANDIN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    if (!file) return DRIVER_NOT_LOADED;
    points = 0;
    gain = busy = 1.0;
    noise_w = stamp_delay_s = stamp_jitter_s = 0.0;
    update_phase_s = 0.037;
    ring_phase_s = 0.0071;
    may_set = 0.0;
    has_controls = 1.0;
    limit_w = LIMIT_MW / 1e3;
    idle_w = 60.0;
    gpus = 1.0;
    while (fgets(line, sizeof line, file)) {
        char key[32];
        double a, b;
        int found = sscanf(line, "%31s %lf %lf", key, &a, &b);
        if (found == 3 && !strcmp(key, "point") && points < MOST_POINTS) {
            time_s[points] = a;
            power_w[points] = b;
            energy_j[points] = 0.0;
            if (points > 0)
                energy_j[points] = energy_j[points - 1] + (a - time_s[points - 1]) *
                                                              (b + power_w[points - 1]) / 2;
            points++;
        } else if (found == 2) {
            if (!strcmp(key, "gain")) gain = a;
            if (!strcmp(key, "noise_w")) noise_w = a;
            if (!strcmp(key, "update_phase_s")) update_phase_s = a;
            if (!strcmp(key, "ring_phase_s")) ring_phase_s = a;
            if (!strcmp(key, "stamp_delay_s")) stamp_delay_s = a;
            if (!strcmp(key, "stamp_jitter_s")) stamp_jitter_s = a;
            if (!strcmp(key, "busy")) busy = a;
            if (!strcmp(key, "may_set")) may_set = a;
            if (!strcmp(key, "has_controls")) has_controls = a;
            if (!strcmp(key, "limit_w")) limit_w = a;
            if (!strcmp(key, "idle_w")) idle_w = a;
            if (!strcmp(key, "gpus")) gpus = fmin(a, MOST_GPUS);
        }
    }
    fclose(file);
    change_t first = {0, 0, (unsigned int)llround(1e3 * limit_w), CLOCK_MHZ, MEMORY_CLOCKS_MHZ[0]};
    changes[0] = first;
    change_count = 1;
    changes_read = 0;
    return points >= 2 && time_s[points - 1] > 0 ? OK : DRIVER_NOT_LOADED;
}

static double waveform_j(double t_s) {
    double period_s = time_s[points - 1];
    double periods = floor(t_s / period_s);
    double rest_s = t_s - periods * period_s;
    int i = 0;
    while (i < points - 2 && time_s[i + 1] <= rest_s) i++;
    double length_s = time_s[i + 1] - time_s[i], into_s = rest_s - time_s[i];
    double slope = length_s > 0 ? (power_w[i + 1] - power_w[i]) / length_s : 0.0;
    return periods * energy_j[points - 1] + energy_j[i] +
           into_s * (power_w[i] + slope * into_s / 2);
}

/* Limits and clocks. */

static double cubed(double x) { return x * x * x; }

/* The integral over p of the power at waveform power p, from 0. */
static double limited_square(double p_w, const change_t *at) {
    double slope = cubed((double)at->clock_mhz / CLOCK_MHZ), most_w = at->limit_mw / 1e3;
    double limited_from_w = fmax(idle_w, idle_w + (most_w - idle_w) / slope);
    double busy_w = fmax(fmin(p_w, limited_from_w) - idle_w, 0);
    return fmin(p_w, idle_w) * fmin(p_w, idle_w) / 2 + busy_w * (idle_w + busy_w * slope / 2) +
           fmax(p_w - limited_from_w, 0) * most_w;
}

static double limited_w(double p_w, const change_t *at) {
    double slope = cubed((double)at->clock_mhz / CLOCK_MHZ);
    return p_w <= idle_w ? p_w : fmin(at->limit_mw / 1e3, idle_w + (p_w - idle_w) * slope);
}

/* The energy from the start of a period, at limits that do not change. */
static double part_j(double rest_s, const change_t *at) {
    double sum_j = 0;
    for (int i = 0; i < points - 1 && time_s[i] < rest_s; i++) {
        double length_s = fmin(time_s[i + 1], rest_s) - time_s[i];
        double whole_s = time_s[i + 1] - time_s[i];
        if (whole_s <= 0) continue;
        double from_w = power_w[i];
        double to_w = from_w + (power_w[i + 1] - from_w) * length_s / whole_s;
        double mean_w = to_w == from_w ? limited_w(from_w, at)
                                       : (limited_square(to_w, at) - limited_square(from_w, at)) /
                                             (to_w - from_w);
        sum_j += length_s * mean_w;
    }
    return sum_j;
}

static double constant_limits_j(double t_s, const change_t *at) {
    if (at->limit_mw >= LIMIT_MW && at->clock_mhz >= CLOCK_MHZ) return waveform_j(t_s);
    double period_s = time_s[points - 1];
    double periods = floor(t_s / period_s);
    return periods * part_j(period_s, at) + part_j(t_s - periods * period_s, at);
}

static FILE *open_shared(const char *suffix, const char *mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", getenv("JOULELAB_STANDIN"), suffix);
    return fopen(path, mode);
}

/* Read what any process has set since the last call. */
static void read_changes(void) {
    pthread_mutex_lock(&lock);
    FILE *file = open_shared(".controls", "r");
    if (file) {
        change_t next;
        fseek(file, changes_read, SEEK_SET);
        while (change_count < MOST_CHANGES &&
               fscanf(file, "%lf %u %u %u\n", &next.t_s, &next.limit_mw, &next.clock_mhz,
                      &next.memory_mhz) == 4) {
            const change_t *last = &changes[change_count - 1];
            next.energy_j = last->energy_j + constant_limits_j(next.t_s, last) -
                            constant_limits_j(last->t_s, last);
            changes[change_count++] = next;
            changes_read = ftell(file);
        }
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
}

static const change_t *change_at(double t_s) {
    int i = change_count - 1;
    while (i > 0 && changes[i].t_s > t_s) i--;
    return &changes[i];
}

static double energy_since_zero_j(double t_s) {
    const change_t *at = change_at(t_s);
    return at->energy_j + constant_limits_j(t_s, at) - constant_limits_j(at->t_s, at);
}

static const change_t *now_set(void) {
    read_changes();
    return &changes[change_count - 1];
}

/* Note a request, and do it if it is allowed. Lines of this length are appended whole. */
static ret_t change(const char *what, int is_allowed, change_t next) {
    FILE *file = open_shared(".requests", "a");
    if (file) {
        fprintf(file, "%s %u %u %u\n", what, next.limit_mw, next.clock_mhz, next.memory_mhz);
        fclose(file);
    }
    if (!has_controls) return NOT_SUPPORTED;
    if (!may_set) return NO_PERMISSION;
    if (!is_allowed) return INVALID_ARGUMENT;
    file = open_shared(".controls", "a");
    if (!file) return NO_PERMISSION;
    fprintf(file, "%.9f %u %u %u\n", seconds(CLOCK_MONOTONIC), next.limit_mw, next.clock_mhz,
            next.memory_mhz);
    fclose(file);
    return OK;
}

/* The clock at which the GPU runs: limited by the lock and by the power limit. */
static unsigned int clock_mhz_now(void) {
    const change_t *at = now_set();
    double t_s = fmod(seconds(CLOCK_MONOTONIC), time_s[points - 1]);
    int i = 0;
    while (i < points - 2 && time_s[i + 1] <= t_s) i++;
    double whole_s = time_s[i + 1] - time_s[i];
    double share = whole_s > 0 ? (t_s - time_s[i]) / whole_s : 0;
    double busy_w = power_w[i] + share * (power_w[i + 1] - power_w[i]) - idle_w;
    double allowed_w = at->limit_mw / 1e3 - idle_w;
    double factor = busy_w > allowed_w ? cbrt(fmax(allowed_w, 0) / busy_w) : 1.0;
    return (unsigned int)fmin(at->clock_mhz, floor(factor * CLOCK_MHZ));
}

/* The same normal deviate for the same update, in every process. */
static double deviate(int64_t update, uint64_t kind) {
    uint64_t state = (uint64_t)update * 0x9E3779B97F4A7C15ULL ^ kind;
    double uniform[2];
    for (int i = 0; i < 2; i++) { /* splitmix64, then Box and Muller's transform */
        state += 0x9E3779B97F4A7C15ULL;
        uint64_t mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9ULL;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBULL;
        uniform[i] = ((double)((mixed ^ (mixed >> 31)) >> 11) + 0.5) / 9007199254740992.0;
    }
    return sqrt(-2 * log(uniform[0])) * cos(2 * M_PI * uniform[1]);
}

static unsigned int mean_mw(double end_s, double window_s, int64_t update) {
    double mean_w = (energy_since_zero_j(end_s) - energy_since_zero_j(end_s - window_s)) / window_s;
    double value_mw = 1e3 * (gain * mean_w + noise_w * deviate(update, 0));
    return value_mw > 0 ? (unsigned int)llround(value_mw) : 0;
}

/* Sensors: each has the value of its latest update. */

static int64_t latest_update(double period_s, double phase_s) {
    return (int64_t)floor((seconds(CLOCK_MONOTONIC) - phase_s) / period_s);
}

static unsigned int windowed_mw(double window_s) {
    int64_t update = latest_update(UPDATE_S, update_phase_s);
    read_changes();
    return mean_mw(update_phase_s + (double)update * UPDATE_S, window_s, update);
}

static unsigned long long counter_mj(void) {
    int64_t update = latest_update(UPDATE_S, update_phase_s);
    double t_s = update_phase_s + (double)update * UPDATE_S;
    read_changes();
    return (unsigned long long)llround(1e3 * gain * energy_since_zero_j(t_s));
}

/* The number of a GPU; -1 if there is none. */
static int number_of(device_t handle) {
    for (int i = 0; i < (int)gpus; i++)
        if (handle == &devices[i]) return i;
    return -1;
}

#define NEEDS_DEVICE(handle)                        \
    if (users == 0) return UNINITIALIZED;           \
    if (number_of(handle) < 0) return INVALID_ARGUMENT

API ret_t nvmlDeviceGetPowerUsage(device_t handle, unsigned int *value_mw) {
    NEEDS_DEVICE(handle);
    take(POWER_CALL_S);
    *value_mw = windowed_mw(AVERAGE_S);
    return OK;
}

API ret_t nvmlDeviceGetTotalEnergyConsumption(device_t handle, unsigned long long *value_mj) {
    NEEDS_DEVICE(handle);
    take(ENERGY_CALL_S);
    *value_mj = counter_mj();
    return OK;
}

API ret_t nvmlDeviceGetFieldValues(device_t handle, int count, field_t *fields) {
    NEEDS_DEVICE(handle);
    for (int i = 0; i < count; i++) {
        field_t *field = &fields[i];
        int whole_gpu = field->scope_id == 0;
        field->timestamp_us = (long long)(1e6 * seconds(CLOCK_REALTIME));
        field->latency_us = 0;
        field->status = OK;
        field->value.ull = 0;
        if (field->field_id == FIELD_ENERGY) {
            take(ENERGY_CALL_S);
            field->value_type = VALUE_ULONGLONG;
            field->value.ull = counter_mj();
        } else if (field->field_id == FIELD_POWER_AVERAGE && whole_gpu) {
            take(POWER_CALL_S);
            field->value_type = VALUE_UINT;
            field->value.ui = windowed_mw(AVERAGE_S);
        } else if (field->field_id == FIELD_POWER_INSTANT && whole_gpu) {
            take(FIELD_CALL_S);
            field->value_type = VALUE_UINT;
            field->value.ui = windowed_mw(INSTANT_S);
        } else {
            field->status = NOT_SUPPORTED;
        }
    }
    return OK;
}

/* Stamp minus the end of the window of a reading of the ring. */
static double stamp_lag_s(int64_t update) {
    double jitter = deviate(update, 0x5DEECE66DULL);
    return stamp_delay_s + stamp_jitter_s * fmax(-LONGEST_JITTER, fmin(LONGEST_JITTER, jitter));
}

API ret_t nvmlDeviceGetSamples(device_t handle, int type, unsigned long long last_us,
                               int *value_type, unsigned int *count, sample_t *samples) {
    NEEDS_DEVICE(handle);
    if (type != SAMPLES_TOTAL_POWER) return NOT_SUPPORTED;
    *value_type = VALUE_UINT;
    if (!samples) {
        *count = RING_LENGTH;
        return OK;
    }
    take(SAMPLES_CALL_S);
    double offset_s = wall_offset_s();
    read_changes();
    double longest_lag_s = stamp_delay_s + LONGEST_JITTER * stamp_jitter_s;
    int64_t latest = latest_update(RING_S, ring_phase_s + longest_lag_s);
    unsigned int room = *count;
    *count = 0;
    for (int64_t i = latest - RING_LENGTH + 1; i <= latest && *count < room; i++) {
        double end_s = ring_phase_s + (double)i * RING_S;
        double stamp_s = end_s + stamp_lag_s(i) + offset_s;
        unsigned long long stamp_us = (unsigned long long)llround(1e6 * stamp_s);
        if (stamp_us <= last_us) continue;
        samples[*count].time_us = stamp_us;
        samples[*count].value.ull = 0;
        samples[*count].value.ui = mean_mw(end_s, RING_S, i);
        (*count)++;
    }
    return *count ? OK : NOT_FOUND;
}

/* The library and its GPUs. */

API ret_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    ret_t status = users == 0 ? load() : OK;
    if (status == OK) users++;
    pthread_mutex_unlock(&lock);
    return status;
}

API ret_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API ret_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    ret_t status = users > 0 ? OK : UNINITIALIZED;
    if (status == OK) users--;
    pthread_mutex_unlock(&lock);
    return status;
}

API const char *nvmlErrorString(ret_t status) {
    switch (status) {
        case OK: return "Success";
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NO_PERMISSION: return "Insufficient Permissions";
        case NOT_FOUND: return "Not Found";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        default: return "Unknown Error";
    }
}

static ret_t text(char *into, unsigned int length, const char *what) {
    if (length <= strlen(what)) return INSUFFICIENT_SIZE;
    strcpy(into, what);
    return OK;
}

API ret_t nvmlSystemGetDriverVersion(char *into, unsigned int length) {
    return text(into, length, "580.159");
}
API ret_t nvmlSystemGetNVMLVersion(char *into, unsigned int length) {
    return text(into, length, "13.580.159");
}
static ret_t cuda_version(int *version) {
    *version = 13000;
    return OK;
}
API ret_t nvmlSystemGetCudaDriverVersion(int *version) { return cuda_version(version); }
API ret_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return cuda_version(version); }

API ret_t nvmlDeviceGetCount_v2(unsigned int *count) {
    if (users == 0) return UNINITIALIZED;
    *count = (unsigned int)gpus;
    return OK;
}

static ret_t found(int number, device_t *handle) {
    if (users == 0) return UNINITIALIZED;
    if (number < 0 || number >= (int)gpus) return NOT_FOUND;
    *handle = &devices[number];
    return OK;
}

/* The number of the GPU of which a format of its number gives this text; -1 without one. */
static int named(const char *format, const char *name) {
    char own[64];
    for (int i = 0; i < (int)gpus; i++) {
        snprintf(own, sizeof own, format, i + 1);
        if (!strcmp(own, name)) return i;
    }
    return -1;
}
API ret_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t *handle) {
    ret_t status = found((int)index, handle);
    return status == NOT_FOUND ? INVALID_ARGUMENT : status;
}
API ret_t nvmlDeviceGetHandleByUUID(const char *uuid, device_t *handle) {
    return found(named(UUID, uuid), handle);
}
API ret_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, device_t *handle) {
    return found(named(BUS_ID, bus_id), handle);
}
API ret_t nvmlDeviceGetName(device_t handle, char *into, unsigned int length) {
    NEEDS_DEVICE(handle);
    return text(into, length, GPU_NAME);
}
API ret_t nvmlDeviceGetUUID(device_t handle, char *into, unsigned int length) {
    NEEDS_DEVICE(handle);
    char uuid[64];
    snprintf(uuid, sizeof uuid, UUID, number_of(handle) + 1);
    return text(into, length, uuid);
}
API ret_t nvmlDeviceGetSerial(device_t handle, char *into, unsigned int length) {
    NEEDS_DEVICE(handle);
    return text(into, length, "0");
}
API ret_t nvmlDeviceGetPciInfo_v3(device_t handle, pci_t *pci) {
    NEEDS_DEVICE(handle);
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned int)number_of(handle) + 1;
    pci->pci_device_id = 0x233010DE; /* H100 SXM5 80GB, in the PCI ID repository */
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "0000:%02x:00.0", pci->bus & 0xff);
    snprintf(pci->bus_id, sizeof pci->bus_id, BUS_ID, pci->bus & 0xff);
    return OK;
}
API ret_t nvmlDeviceGetMemoryInfo(device_t handle, memory_t *memory) {
    NEEDS_DEVICE(handle);
    memory->total = MEMORY_BYTES;
    memory->used = MEMORY_USED_BYTES;
    memory->free = MEMORY_BYTES - MEMORY_USED_BYTES;
    return OK;
}
API ret_t nvmlDeviceGetMemoryInfo_v2(device_t handle, memory_v2_t *memory) {
    NEEDS_DEVICE(handle);
    memory->total = MEMORY_BYTES;
    memory->reserved = 0;
    memory->used = MEMORY_USED_BYTES;
    memory->free = MEMORY_BYTES - MEMORY_USED_BYTES;
    return OK;
}
API ret_t nvmlDeviceGetUtilizationRates(device_t handle, utilization_t *rates) {
    NEEDS_DEVICE(handle);
    rates->gpu = 100;
    rates->memory = 50;
    return OK;
}
API ret_t nvmlDeviceGetTemperatureV(device_t handle, temperature_t *temperature) {
    NEEDS_DEVICE(handle);
    temperature->temperature = 50;
    return OK;
}

/* Calls that give one constant number. */
#define CONSTANT(name, arguments, type, number)        \
    API ret_t name(device_t handle arguments, type *value) { \
        NEEDS_DEVICE(handle);                          \
        *value = (number);                             \
        return OK;                                     \
    }
#define COMMA ,
CONSTANT(nvmlDeviceGetTemperature, COMMA int sensor __attribute__((unused)), unsigned int, 50)
CONSTANT(nvmlDeviceGetClockInfo, COMMA int kind, unsigned int,
         kind == CLOCK_MEMORY ? now_set()->memory_mhz : clock_mhz_now())
CONSTANT(nvmlDeviceGetMaxClockInfo, COMMA int kind, unsigned int,
         kind == CLOCK_MEMORY ? MEMORY_CLOCKS_MHZ[0] : CLOCK_MHZ)
CONSTANT(nvmlDeviceGetPowerManagementDefaultLimit, , unsigned int, LIMIT_MW)
CONSTANT(nvmlDeviceGetEnforcedPowerLimit, , unsigned int, now_set()->limit_mw)
CONSTANT(nvmlDeviceGetPersistenceMode, , unsigned int, 1)
CONSTANT(nvmlDeviceGetComputeMode, , unsigned int, 0)
CONSTANT(nvmlDeviceGetPerformanceState, , unsigned int, 0)
CONSTANT(nvmlDeviceGetArchitecture, , unsigned int, 9)
CONSTANT(nvmlDeviceGetBrand, , unsigned int, 14)
CONSTANT(nvmlDeviceGetIndex, , unsigned int, (unsigned int)number_of(handle))
CONSTANT(nvmlDeviceGetMaxMigDeviceCount, , unsigned int, 0)

#define NEEDS_CONTROLS(handle) \
    NEEDS_DEVICE(handle);      \
    if (!has_controls) return NOT_SUPPORTED

API ret_t nvmlDeviceGetPowerManagementLimit(device_t handle, unsigned int *limit_mw) {
    NEEDS_CONTROLS(handle);
    *limit_mw = now_set()->limit_mw;
    return OK;
}
API ret_t nvmlDeviceGetPowerManagementLimitConstraints(device_t handle, unsigned int *low,
                                                       unsigned int *high) {
    NEEDS_CONTROLS(handle);
    *low = LOWEST_LIMIT_MW;
    *high = LIMIT_MW;
    return OK;
}
API ret_t nvmlDeviceSetPowerManagementLimit(device_t handle, unsigned int limit_mw) {
    NEEDS_DEVICE(handle);
    change_t next = *now_set();
    next.limit_mw = limit_mw;
    return change("power_limit", limit_mw >= LOWEST_LIMIT_MW && limit_mw <= LIMIT_MW, next);
}

static ret_t listed(unsigned int *room, unsigned int *into, unsigned int first_mhz,
                    unsigned int step_mhz, unsigned int count) {
    unsigned int had = *room;
    *room = count;
    if (!into || had < count) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < count; i++) into[i] = first_mhz - i * step_mhz;
    return OK;
}
API ret_t nvmlDeviceGetSupportedMemoryClocks(device_t handle, unsigned int *room,
                                             unsigned int *into) {
    NEEDS_CONTROLS(handle);
    unsigned int step_mhz = MEMORY_CLOCKS_MHZ[0] - MEMORY_CLOCKS_MHZ[1];
    return listed(room, into, MEMORY_CLOCKS_MHZ[0], step_mhz, MEMORY_CLOCKS);
}
API ret_t nvmlDeviceGetSupportedGraphicsClocks(device_t handle, unsigned int memory_mhz,
                                               unsigned int *room, unsigned int *into) {
    NEEDS_CONTROLS(handle);
    if (memory_mhz != MEMORY_CLOCKS_MHZ[0] && memory_mhz != MEMORY_CLOCKS_MHZ[1]) return NOT_FOUND;
    unsigned int count = (CLOCK_MHZ - LOWEST_CLOCK_MHZ) / CLOCK_STEP_MHZ + 1;
    return listed(room, into, CLOCK_MHZ, CLOCK_STEP_MHZ, count);
}
static ret_t lock_clocks(unsigned int low_mhz, unsigned int high_mhz) {
    change_t next = *now_set();
    next.clock_mhz = high_mhz;
    return change("clock", low_mhz <= high_mhz && high_mhz <= CLOCK_MHZ, next);
}
API ret_t nvmlDeviceSetGpuLockedClocks(device_t handle, unsigned int low, unsigned int high) {
    NEEDS_DEVICE(handle);
    return lock_clocks(low, high);
}
API ret_t nvmlDeviceResetGpuLockedClocks(device_t handle) {
    NEEDS_DEVICE(handle);
    return lock_clocks(0, CLOCK_MHZ);
}
static ret_t lock_memory_clocks(unsigned int low_mhz, unsigned int high_mhz) {
    change_t next = *now_set();
    next.memory_mhz = high_mhz;
    return change("memory_clock", low_mhz <= high_mhz && high_mhz <= MEMORY_CLOCKS_MHZ[0], next);
}
API ret_t nvmlDeviceSetMemoryLockedClocks(device_t handle, unsigned int low, unsigned int high) {
    NEEDS_DEVICE(handle);
    return lock_memory_clocks(low, high);
}
API ret_t nvmlDeviceResetMemoryLockedClocks(device_t handle) {
    NEEDS_DEVICE(handle);
    return lock_memory_clocks(0, MEMORY_CLOCKS_MHZ[0]);
}
API ret_t nvmlDeviceGetMigMode(device_t handle, unsigned int *now, unsigned int *pending) {
    NEEDS_DEVICE(handle);
    *now = *pending = 0;
    return OK;
}
API ret_t nvmlDeviceGetCudaComputeCapability(device_t handle, int *major, int *minor) {
    NEEDS_DEVICE(handle);
    *major = 9;
    *minor = 0;
    return OK;
}

#define NO_PROCESSES(name)                                                       \
    API ret_t name(device_t handle, unsigned int *count, void *processes) {      \
        (void)processes;                                                         \
        NEEDS_DEVICE(handle);                                                    \
        *count = 0;                                                              \
        return OK;                                                               \
    }
NO_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)

API ret_t nvmlDeviceGetC2cModeInfoV(device_t handle, void *info) {
    (void)info;
    NEEDS_DEVICE(handle);
    return NOT_SUPPORTED;
}
API ret_t nvmlDeviceSetPersistenceMode(device_t handle, int mode) {
    (void)mode;
    NEEDS_DEVICE(handle);
    return NO_PERMISSION;
}
