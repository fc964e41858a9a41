// What a worker sets in its own process before anything of the user's runs there: its environment,
// working directory, CPUs and limits.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// Those fields of PoolOptions, as they travel to a worker, or to another host.
class WorkerSettings {
  public:
    WorkerSettings() = default;
    explicit WorkerSettings(const PoolOptions& options);
    // Throws std::invalid_argument for what makes no sense.
    static void check(const PoolOptions& options);

    bool says_anything() const {
        return !env_.empty() || !cwd_.empty() || !cpus_.empty() || !limits_.empty();
    }
    // In the worker of that number. Throws std::system_error, which names the field.
    void apply(unsigned index) const;
    void put_into(PoolOptions& options) const;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(env_, cwd_, cpus_, limits_);
    }

  private:
    struct Limit {
        std::uint32_t resource = 0;  // a subprocess::Resource
        std::uint64_t soft = 0, hard = 0;
        template <class Archive>
        void serialize(Archive& archive) {
            archive(resource, soft, hard);
        }
    };
    std::map<std::string, std::string> env_;
    std::string cwd_;
    std::vector<std::vector<int>> cpus_;
    std::vector<Limit> limits_;
};

// With the worker's number in the place of each "{index}", its rest in that of "{index%4}".
std::string with_index(std::string text, unsigned index);
// The environment that a worker's program is started with: what the pool adds. No number: what is
// the same for all.
std::vector<std::pair<std::string, std::string>> added_environment(const PoolOptions& options,
                                                                   std::optional<unsigned> index);

}  // namespace sidestep::detail
