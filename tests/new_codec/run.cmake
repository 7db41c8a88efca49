# See CMakeLists.txt beside this. The codec is the one of examples/03_new_codec.cpp.
cmake_minimum_required(VERSION 3.25)

set(tree "${work}/tree")
set(build "${work}/build")

# run(<words the output must contain> <command>...)
function(run expected)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  list(JOIN ARGN " " command)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed (${result}): ${command}\n${output}")
  endif()
  if(NOT output MATCHES "${expected}")
    message(FATAL_ERROR "\"${expected}\" is not in the output of: ${command}\n${output}")
  endif()
endfunction()

# The tree is laid anew; unchanged files keep their times, so a second run builds only what changed.
foreach(folder include src bench cuda docs examples tests)
  file(GLOB_RECURSE files RELATIVE "${source}" "${source}/${folder}/*")
  list(FILTER files EXCLUDE REGEX "^examples/models/|^tests/data/")
  foreach(file IN LISTS files)
    configure_file("${source}/${file}" "${tree}/${file}" COPYONLY)
  endforeach()
endforeach()
configure_file("${source}/CMakeLists.txt" "${tree}/CMakeLists.txt" COPYONLY)

# One header.
file(READ "${source}/examples/03_new_codec.cpp" example)
string(REGEX MATCH "// \\[codec\\]\n(.*)// \\[/codec\\]" part "${example}")
if(NOT part)
  message(FATAL_ERROR "examples/03_new_codec.cpp has no part [codec]")
endif()
string(CONCAT header
  "#pragma once\n"
  "#include \"kvcodec/codec/codec.hpp\"\n"
  "#include \"kvcodec/core/arith.hpp\"\n"
  "#include \"kvcodec/core/dtype.hpp\"\n"
  "#include \"kvcodec/core/error.hpp\"\n"
  "${CMAKE_MATCH_1}")
file(CONFIGURE OUTPUT "${tree}/include/kvcodec/codec/ternary.hpp" CONTENT "${header}" @ONLY)

# One list line.
set(list_file "include/kvcodec/codec/builtin.hpp")
file(READ "${source}/${list_file}" text)
string(REPLACE "X(NqkvSymmetric)" "X(NqkvSymmetric) X(::Ternary)" listed "${text}")
if(listed STREQUAL text)
  message(FATAL_ERROR "${list_file}: the list has no NqkvSymmetric")
endif()
string(REPLACE "#include \"kvcodec/codec/raw.hpp\""
  "#include \"kvcodec/codec/raw.hpp\"\n#include \"kvcodec/codec/ternary.hpp\"" listed "${listed}")
file(CONFIGURE OUTPUT "${tree}/${list_file}" CONTENT "${listed}" @ONLY)

run("" "${CMAKE_COMMAND}" -S "${tree}" -B "${build}" -G "${generator}" ${pass_on}
  -DKVCODEC_CUDA=OFF)
run("" "${CMAKE_COMMAND}" --build "${build}" --target conformance_codec_test encode_bench
  kvcodec_cli)
set(bin "${build}/bin")
run("ternary" "${bin}/conformance_codec_test" --gtest_filter=*ternary* --gtest_brief=0)
run("encode/ternary/k" "${bin}/encode_bench" --benchmark_list_tests)
run("ternary" "${bin}/kvcodec" list)
run("[|] `ternary` [|]" "${bin}/kvcodec" list --markdown)
