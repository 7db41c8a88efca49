# Configures, builds and runs the consumer project `source`/`way`; see CMakeLists.txt beside this.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${way}: failed (${result}): ${command}")
  endif()
endfunction()

# Always from nothing, so that a header left by an earlier installation cannot help.
file(REMOVE_RECURSE "${work}/build" "${work}/prefix")
if(way STREQUAL "find_package")
  run("${CMAKE_COMMAND}" --install "${kvcodec_build}" --component development
    --prefix "${work}/prefix")
  set(where "-DCMAKE_PREFIX_PATH=${work}/prefix")
else()
  set(where "-DKVCODEC_FOLDER=${kvcodec_source}")
endif()
run("${CMAKE_COMMAND}" -S "${source}/${way}" -B "${work}/build" -G "${generator}"
  ${pass_on} ${where})
run("${CMAKE_COMMAND}" --build "${work}/build")
run("${work}/build/consumer")
