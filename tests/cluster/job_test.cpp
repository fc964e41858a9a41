// How a job comes together: what launchers say, who may join, how many workers each host gets.
#include <map>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "membership.hpp"
#include "shares.hpp"
#include "thread_job.hpp"

namespace job_test {

namespace {

using sidestep::detail::find_launch;
using sidestep::detail::Hello;
using Environment = std::map<std::string, std::string>;

std::optional<sidestep::detail::Launch> launch_in(const Environment& environment) {
    return find_launch([&](const char* name) {
        auto found = environment.find(name);
        return found == environment.end() ? nullptr : found->second.c_str();
    });
}

Hello rank_on(const std::string& host, unsigned cpus, const std::string& affinity) {
    Hello hello;
    hello.host = host;
    hello.cpus = hello.cpus_bound_to = cpus;
    hello.cpus_of_host = 8;
    hello.affinity = affinity;
    return hello;
}

std::vector<unsigned> workers(const std::vector<Hello>& ranks,
                              std::optional<unsigned> processes = {}) {
    std::vector<unsigned> counts;
    for (const auto& share : sidestep::detail::shares_of(ranks, processes))
        counts.push_back(share.processes);
    return counts;
}

}  // namespace

TEST_CASE("A launch is known by its launcher's variables", "[cluster]") {
    CHECK_FALSE(launch_in({}));
    CHECK(launch_in({{"OMPI_COMM_WORLD_SIZE", "3"}})->size == 3);
    CHECK(launch_in({{"PMI_SIZE", "4"}, {"PMI_RANK", "0"}})->size == 4);
    CHECK(launch_in({{"SLURM_STEP_NUM_TASKS", "5"}, {"SLURM_PROCID", "0"}})->launcher == "srun");
    CHECK(launch_in({{"FLUX_JOB_SIZE", "6"}, {"FLUX_TASK_RANK", "1"}})->size == 6);
    // mpirun inside of a Slurm allocation is the one that started it.
    CHECK(launch_in({{"SLURM_STEP_NUM_TASKS", "5"}, {"SLURM_PROCID", "0"}, {"PMI_SIZE", "2"}})
              ->size == 2);
}

TEST_CASE("A program that is alone has no launch", "[cluster]") {
    CHECK_FALSE(launch_in({{"OMPI_COMM_WORLD_SIZE", "1"}}));
    CHECK_FALSE(launch_in({{"SLURM_STEP_NUM_TASKS", "5"}}));  // the shell of salloc
    CHECK_FALSE(launch_in({{"OMPI_COMM_WORLD_SIZE", "many"}}));
    CHECK_FALSE(launch_in({{"OMPI_COMM_WORLD_SIZE", ""}}));
    CHECK_FALSE(launch_in({{"OMPI_COMM_WORLD_SIZE", "-3"}}));
    CHECK_FALSE(launch_in({{"OMPI_COMM_WORLD_SIZE", "3"}, {"SIDESTEP_CLUSTER", "local"}}));
    CHECK(launch_in({{"OMPI_COMM_WORLD_SIZE", "3"}, {"SIDESTEP_CLUSTER", "auto"}}));
    CHECK(launch_in({{"OMPI_COMM_WORLD_SIZE", "3"}, {"SIDESTEP_CLUSTER", ""}}));
    CHECK_THROWS_AS(launch_in({{"SIDESTEP_CLUSTER", "mpi"}}), std::invalid_argument);
}

TEST_CASE("Each host has a worker for each CPU, the first keeps one for the program", "[cluster]") {
    CHECK(workers({rank_on("a", 8, "all"), rank_on("b", 8, "all"), rank_on("c", 4, "half")}) ==
          std::vector<unsigned>{7, 8, 4});
    // Ranks of one host that are not bound share its CPUs; those that are have their own.
    CHECK(workers({rank_on("a", 8, "all"), rank_on("a", 8, "all"), rank_on("b", 8, "all")}) ==
          std::vector<unsigned>{3, 4, 8});
    CHECK(workers({rank_on("a", 1, "0"), rank_on("a", 1, "1"), rank_on("b", 1, "0")}) ==
          std::vector<unsigned>{1, 1, 1});
    // More ranks than CPUs.
    CHECK(workers({rank_on("a", 2, "0 1"), rank_on("a", 2, "0 1"), rank_on("a", 2, "0 1")}) ==
          std::vector<unsigned>{1, 1, 1});
}

TEST_CASE("Processes that are asked for are given out in order, then in turn", "[cluster]") {
    std::vector<Hello> ranks{rank_on("a", 4, "all"), rank_on("b", 4, "all")};
    CHECK(workers(ranks, 1) == std::vector<unsigned>{1, 0});
    CHECK(workers(ranks, 3) == std::vector<unsigned>{3, 0});
    CHECK(workers(ranks, 5) == std::vector<unsigned>{3, 2});
    CHECK(workers(ranks, 7) == std::vector<unsigned>{3, 4});
    CHECK(workers(ranks, 10) == std::vector<unsigned>{5, 5});
    CHECK(workers(ranks, 11) == std::vector<unsigned>{5, 6});
    CHECK(workers(ranks, 4'000'000'000) == std::vector<unsigned>{2'000'000'000, 2'000'000'000});
}

TEST_CASE("A rank that is bound to a part of its host is warned of, if it is alone there",
          "[cluster]") {
    using sidestep::detail::bound_too_tightly;
    std::vector<Hello> bound{rank_on("a", 8, "all"), rank_on("b", 1, "0")};
    CHECK_THAT(bound_too_tightly(bound), Catch::Contains("host b may use 1 of its 8 CPUs"));
    CHECK_THAT(bound_too_tightly(bound), Catch::Contains("--bind-to none"));
    std::vector<Hello> split{rank_on("a", 8, "all"), rank_on("b", 1, "0"), rank_on("b", 1, "1")};
    CHECK(bound_too_tightly(split).empty());
}

TEST_CASE("Another build of the program is refused, and its host named, on both sides",
          "[cluster]") {
    auto wires = std::make_shared<test::Wires>(3);
    sidestep::detail::Hub hub(std::make_unique<test::ThreadTransport>(wires, 0));
    int exit_codes[2] = {};
    std::vector<std::thread> agents;
    for (int rank : {1, 2})
        agents.emplace_back([&, rank] {
            test::ThreadTransport transport(wires, rank);
            Hello hello = test::ThreadJob::hello(rank, 1);
            if (rank == 2) hello.program = "0123456789abcdef";
            exit_codes[rank - 1] = sidestep::detail::Agent(transport).run(hello);
        });
    try {
        hub.welcome(test::ThreadJob::hello(0, 1));
        FAIL("one is another build");
    } catch (const std::runtime_error& error) {
        CHECK_THAT(error.what(), Catch::Contains("host2 is another build (id 0123456789abcdef)"));
        CHECK_THAT(error.what(), Catch::Contains("start the same file on all hosts"));
    }
    for (std::thread& agent : agents) agent.join();
    CHECK(exit_codes[0] == 1);
    CHECK(exit_codes[1] == 1);
}

TEST_CASE("Who does not come is missed", "[cluster]") {
    auto wires = std::make_shared<test::Wires>(3);
    sidestep::detail::HubTimes times;
    times.welcome = std::chrono::milliseconds(20);
    sidestep::detail::Hub hub(std::make_unique<test::ThreadTransport>(wires, 0), times);
    CHECK_THROWS_WITH(hub.welcome(test::ThreadJob::hello(0, 1)),
                      Catch::Contains("2 of 3 processes have not said"));
}

TEST_CASE("What a worker's death tells crosses between hosts", "[cluster]") {
    sidestep::TaskError::Details details;
    details.pid = 4711;
    details.item = 12;
    details.exit_status = sidestep::ExitStatus::from_signal(11, true);
    details.stack = {reinterpret_cast<const void*>(&rank_on)};
    details.note = "a note";
    details.used = 9;
    details.output.out = "words";
    details.attempts = 2;
    details.most_attempts = 5;
    details.retry_limit = 2;
    sidestep::detail::HeapBuffer buffer;
    sidestep::OutputArchive output(buffer);
    output(sidestep::detail::wired(details));
    sidestep::InputArchive input(buffer.bytes());
    sidestep::detail::WiredDetails wire;
    input(wire);
    auto arrived = sidestep::detail::unwired(wire);
    CHECK(arrived.pid == 4711);
    CHECK(arrived.item == 12u);
    CHECK(arrived.exit_status == details.exit_status);
    CHECK(arrived.stack == details.stack);
    CHECK(arrived.note == "a note");
    CHECK(arrived.used == 9);
    CHECK(arrived.output.out == "words");
    CHECK(arrived.attempts == 2);
    CHECK(arrived.most_attempts == 5);
    CHECK(arrived.retry_limit == 2u);
}

}  // namespace job_test
